"""Tiny random models from the real config classes, for exactness tests without a download."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForImageTextToText

from groundprune.errors import unknown
from groundprune.families import families, family_of
from groundprune.families.tiny_parts import PAD, WORDS

DECAY = (0.05, 0.5)  # rates of a tiny model's states; stock code draws them from (0, 16)


def tiny_model(family: str = "llava", seed: int = 0, **options: Any) -> Any:
    """A random model of a family; eval mode, fp32, sdpa.

    Args:
        family: one of `groundprune.families.families()`.
        seed: of the weights.
        **options: see `Family.tiny_config`.

    Returns:
        A stock transformers model.

    Raises:
        GroundPruneError: an unknown family.
    """
    known = families()
    if family not in known:
        raise unknown("family", family, known)
    return tiny_of(known[family].tiny_config(**options), seed)


def tiny_of(config: Any, seed: int = 0) -> Any:
    """A random model of a config.

    Weights have a std of 1.4 / sqrt(fan_in): with the default 0.02 attention is uniform, every position id gives
    the same output, and an exactness test proves nothing. For the same reason states of linear attention decay
    slowly: at the initial rates they forget within a token.

    Args:
        config: of a known family.
        seed: of the weights.

    Returns:
        A stock transformers model.
    """
    torch.manual_seed(seed)
    model: Any = AutoModelForImageTextToText.from_config(config).eval()
    for name, weight in model.named_parameters():
        if weight.ndim > 1:
            fan_in = weight.shape[1:].numel() if "embed" not in name else 2
            torch.nn.init.normal_(weight, std=1.4 / math.sqrt(fan_in))
        elif name.endswith("A_log"):
            weight.data.uniform_(*DECAY).log_()
    model.generation_config.pad_token_id = PAD
    model.generation_config.eos_token_id = None
    return model


def tiny_inputs(
    model: Any, prompts: list[tuple[int, int, int]], seed: int = 1, modality: str | None = None
) -> dict[str, Tensor]:
    """Left-padded inputs of random words and pixels.

    Where the family has visuals of several kinds (sizes, videos), images go through them in turn.

    Args:
        model: from `tiny_model`.
        prompts: one row per (images, words before each image, words after the last).
        seed: of words and pixels.
        modality: "image" or "video" where no other visuals are wanted; None = all that the family has.

    Returns:
        What a processor would give: input_ids Long[B, L], attention_mask, pixel_values, ...
    """
    generator = torch.Generator().manual_seed(seed)
    family = family_of(model.config)
    visuals = family.tiny_visuals(model.config)
    known = range(len(visuals.tokens))
    if modality is not None:
        placeholder = family.token_ids(model.config)[modality]
        known = [kind for kind in known if placeholder in visuals.tokens[kind]]
    rows: list[list[int]] = []
    kinds: list[list[int]] = []
    for images, before, after in prompts:
        words = torch.randint(WORDS.start, WORDS.stop, (images * before + after,), generator=generator).tolist()
        done = sum(map(len, kinds))
        kinds.append([known[(done + i) % len(known)] for i in range(images)])
        row: list[int] = []
        for i, kind in enumerate(kinds[-1]):
            row += words[i * before : (i + 1) * before] + visuals.tokens[kind]
        rows.append(row + words[images * before :])
    length = max(map(len, rows))
    ids = torch.tensor([[PAD] * (length - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows])
    return {"input_ids": ids, "attention_mask": mask, **visuals.encode(kinds, generator), **visuals.extra(ids)}
