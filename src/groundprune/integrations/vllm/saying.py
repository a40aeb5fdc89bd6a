"""The same prompt through vLLM and through transformers: new tokens with the log-probabilities of the vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from groundprune.pruners import Pruner
from groundprune.pruning.context import prune

STEPS = 12  # new tokens
Video = tuple[Any, dict[str, Any]]  # frames UInt8[F, H, W, 3], and what vLLM's metadata of a video holds
Request = tuple[Any, ...]  # what `asked` takes: text, images, and videos if there are any


class Said(NamedTuple):
    """What a model answered greedily.

    ids: the new tokens. logprobs: [steps, V]. columns: that the LLM read. cached: of them, reused. prompt: their ids,
    which vLLM alone tells.
    """

    ids: list[int]
    logprobs: Tensor
    columns: int
    cached: int = 0
    prompt: tuple[int, ...] = ()


def asked(text: str, images: Sequence[Image.Image], videos: Sequence[Video] = ()) -> dict[str, Any]:
    """A prompt as vLLM takes it."""
    given = {"image": list(images), "video": list(videos)}
    media = {kind: items for kind, items in given.items() if items}
    return {"prompt": text, "multi_modal_data": media} if media else {"prompt": text}


def say(llm: Any, prompts: Sequence[Any], steps: int = STEPS, **options: Any) -> list[Said]:
    """What vLLM's `LLM`, made with max_logprobs=-1, says to prompts, all at once. options: of its `generate`."""
    from vllm.sampling_params import SamplingParams

    greedy = SamplingParams(temperature=0, max_tokens=steps, ignore_eos=True, logprobs=-1)
    return [_said(output) for output in llm.generate(prompts, greedy, use_tqdm=False, **options)]


def _said(output: Any) -> Said:
    (first,), prompt = output.outputs, tuple(output.prompt_token_ids)
    rows = [[row[i].logprob for i in range(len(row))] for row in first.logprobs]
    return Said(list(first.token_ids), torch.tensor(rows), len(prompt), output.num_cached_tokens or 0, prompt)


def by_transformers(
    model: Any,
    processor: Any,
    requests: Sequence[Request],
    pruner: Pruner,
    positions: str = "preserved",
    steps: int = STEPS,
) -> list[Said]:
    """The same through `gp.prune`, one prompt at a time."""
    return [_one(model, processor, request, pruner, positions, steps) for request in requests]


def _one(
    model: Any,
    processor: Any,
    request: Request,
    pruner: Pruner,
    positions: str,
    steps: int,
) -> Said:
    inputs = inputs_of(processor, *request)
    with prune(model, pruner, positions) as run:
        output = model.generate(
            **inputs, max_new_tokens=steps, min_new_tokens=steps, do_sample=False, output_logits=True,
            return_dict_in_generate=True,
        )  # fmt: skip
        length = inputs["input_ids"].shape[1]
        lost = len(run.layout[0]) - len(run.kept[0]) if any(request[1:]) else 0
    logprobs = torch.cat(output.logits).float().log_softmax(-1)
    return Said(output.sequences[0, length:].tolist(), logprobs, length - lost)


def inputs_of(
    processor: Any, text: str, images: Sequence[Image.Image], videos: Sequence[Video] = ()
) -> dict[str, Any]:
    """What transformers' models read of one prompt."""
    # No list of lists: vLLM cuts each of LLaVA-OneVision's images into tiles, transformers those of a flat list.
    media: dict[str, Any] = {"images": list(images)} if images else {}
    if videos:
        about = [{name: value for name, value in of.items() if name != "do_sample_frames"} for _, of in videos]
        media |= {"videos": [[frames for frames, _ in videos]], "video_metadata": [about], "do_sample_frames": False}
    return dict(processor(text=[text], return_tensors="pt", **media))
