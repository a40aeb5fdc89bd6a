"""Two images for a tiny model of any family, of which a share is rounded for both as for each alone.

vLLM counts an image's budget by itself, `gp.prune` that of a whole prompt: of two images with odd numbers of tokens
it may keep one token more or less. A proof needs images where that makes no difference.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import permutations
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from groundprune.errors import Unproven
from groundprune.exactness.folders import photo, prompt
from groundprune.integrations.vllm.saying import inputs_of
from groundprune.pruners import Pruner
from groundprune.pruning.inputs import prune_inputs

# Width and height in pixels: of a few patches, and where a tower takes any shape not all alike.
SIZES = ((48, 48), (40, 24), (36, 40), (48, 32), (64, 48), (30, 60), (96, 96), (128, 64), (96, 64))

FEWEST = 3  # tokens that are left of an image


class Images(NamedTuple):
    """both: the images. dropped: by pruner, how many tokens the first loses when it is alone."""

    both: list[Image.Image]
    dropped: list[int]


def choose_images(model: Any, processor: Any, pruners: Sequence[Pruner]) -> Images:
    """The first pair of `SIZES`, of two shapes, that does.

    Args:
        model: tiny, of a known family.
        processor: its processor.
        pruners: that act before the LLM.

    Raises:
        Unproven: none does.
    """
    alone = {size: [_kept(model, processor, [size], pruner) for pruner in pruners] for size in SIZES}
    for pair in _pairs(alone):
        both = [_kept(model, processor, pair, pruner) for pruner in pruners]
        expected = [torch.cat([kept, alone[pair[1]][i][0] + total]) for i, (kept, total) in enumerate(alone[pair[0]])]
        if all(kept.equal(wanted) for (kept, _), wanted in zip(both, expected, strict=True)):
            dropped = [total - len(kept) for kept, total in alone[pair[0]]]
            return Images(_drawn(pair), dropped)
    raise Unproven(f"no two images of {SIZES} are pruned together as each is alone")


def _pairs(alone: Mapping[tuple[int, int], list[tuple[Tensor, int]]]) -> Iterator[tuple[tuple[int, int], ...]]:
    """Those first that have few tokens, of which some are dropped and `FEWEST` stay."""
    few = {size: found[0][1] for size, found in alone.items() if all(FEWEST <= len(k) < n for k, n in found)}
    yield from sorted(permutations(few, 2), key=lambda pair: few[pair[0]] + few[pair[1]])


def _drawn(sizes: Sequence[tuple[int, int]]) -> list[Image.Image]:
    return [photo(SIZES.index(size), *size) for size in sizes]


def _kept(model: Any, processor: Any, sizes: Sequence[tuple[int, int]], pruner: Pruner) -> tuple[Tensor, int]:
    """Which of the visual tokens stay, and of how many."""
    inputs = inputs_of(processor, prompt(processor, len(sizes), "the"), _drawn(sizes))
    short = prune_inputs(model, inputs, pruner)
    return short.kept[0].cpu(), len(short.layout[0])
