"""Drawn scenes as conversations to train on, and the collator that makes labelled batches of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from groundprune.pocket.questions import draw_question
from groundprune.pocket.scenes import make_scene
from tools.pocket_training.prompts import request
from tools.pocket_training.runtime import scene_seed
from tools.pocket_training.vocabulary import EOS, LM_IDS, box_text

FIRST_RUN = 40  # of the slices of training scenes: those that neither the pocket nor a variant was drawn from
IGNORED = -100


class Conversations(Dataset):
    """A scene each, and requests for boxes with their true answers; a function of the seed and the index."""

    def __init__(self, seed: int, count: int, turns: int):
        self._seed, self._count, self._turns = seed, count, turns

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> dict[str, Any]:
        """messages, as a chat template takes them, and images."""
        seed = scene_seed(FIRST_RUN + self._seed, 1, index)
        scene, rng = make_scene(seed), np.random.default_rng([seed, 5])
        messages: list[dict[str, Any]] = []
        for _ in range(self._turns):
            question = draw_question(rng, scene.objects, "rec")
            if question is None or question.box is None:
                continue
            content = [{"type": "text", "text": request("rec", question.text)}]
            content[:0] = [] if messages else [{"type": "image"}]
            messages.append({"role": "user", "content": content})
            messages.append({"role": "assistant", "content": box_text(question.box)})
        return {"messages": messages, "images": [Image.fromarray(scene.image)]}


class Collator:
    """Examples to what the model reads, padded on the right, with labels where an assistant speaks."""

    def __init__(self, processor: Any):
        self._processor = processor

    def __call__(self, examples: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        texts = [self._processor.apply_chat_template(each["messages"]) for each in examples]
        images = [each["images"] for each in examples]
        batch = dict(
            self._processor(images=images, text=texts, padding=True, padding_side="right", return_tensors="pt")
        )
        spoken = said_by_assistant(batch["input_ids"], LM_IDS["assistant:"], LM_IDS[EOS])
        return {**batch, "labels": batch["input_ids"].masked_fill(~spoken, IGNORED)}


def said_by_assistant(ids: Tensor, start: int, end: int) -> Tensor:
    """Bool[B, L], True behind each `start`, to the next `end` with it."""
    spoken = torch.zeros_like(ids, dtype=torch.bool)
    for row, words in enumerate(ids.tolist()):
        speaks = False
        for column, word in enumerate(words):
            spoken[row, column] = speaks
            speaks = word == start or (speaks and word != end)
    return spoken
