"""Accuracy of the pocket model as it stands, unpruned, through the stock `generate`."""

import re
from collections.abc import Iterable
from itertools import islice

import torch

from groundprune.pocket.samples import PocketSample
from groundprune.pocket.scenes import IMAGE_SIZE

from .prompts import request

_NUMBER = re.compile(r"\d+\.\d+")


def read_box(text: str) -> tuple[float, float, float, float] | None:
    """The first four numbers of an answer, in pixels; None if there are not four."""
    numbers = [float(found) * IMAGE_SIZE for found in _NUMBER.findall(text)[:4]]
    if len(numbers) < 4:
        return None
    left, top, right, bottom = numbers
    return left, top, right, bottom


def box_iou(first, second) -> float:
    """Intersection over union of two (left, top, right, bottom); 0 where one is empty."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (first, second))
    return width * height / (areas - width * height)


def is_right(sample: PocketSample, said: str) -> bool:
    """A box that overlaps the true one by at least half, or the very word."""
    if sample.kind == "vqa":
        return said.strip() == sample.answer
    box = read_box(said)
    return box is not None and box_iou(box, sample.box) >= 0.5


@torch.inference_mode()
def answers(model, processor, samples: list[PocketSample]) -> list[str]:
    """What the model says to one batch of samples, greedily."""
    messages = [
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": request(s.kind, s.text)}]}]
        for s in samples
    ]
    prompts = [processor.apply_chat_template(m, add_generation_prompt=True) for m in messages]
    inputs = processor(images=[s.image for s in samples], text=prompts, padding=True, return_tensors="pt")
    inputs = inputs.to(model.device, model.dtype)
    generated = model.generate(**inputs, max_new_tokens=6, do_sample=False)
    return processor.batch_decode(generated[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def accuracy(model, processor, samples: Iterable[PocketSample], batch: int = 64) -> dict[str, dict[str, float]]:
    """`{"rec": {"right": .., "asked": .., "accuracy": percent}, "vqa": .., "rec/extreme": .., ..}`"""
    stream, results = iter(samples), {}
    while chunk := list(islice(stream, batch)):
        for sample, said in zip(chunk, answers(model, processor, chunk), strict=True):
            for key in (sample.kind, f"{sample.kind}/{sample.type}"):
                tally = results.setdefault(key, {"right": 0, "asked": 0})
                tally["right"] += is_right(sample, said)
                tally["asked"] += 1
    for tally in results.values():
        tally["accuracy"] = round(100 * tally["right"] / tally["asked"], 2)
    return dict(sorted(results.items()))
