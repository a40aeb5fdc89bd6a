"""Images whose tiles are units of their own to the encoder, with nothing between their tokens; needs no vLLM."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from groundprune.tokens.layout import VisualUnit

TILES = "image_num_patches"  # under which vLLM holds how many tiles each image is, beside its pixels


@dataclass(frozen=True, eq=False)
class TiledImage:
    """units: what the encoder makes of the tiles, in order; N tokens in all."""

    units: tuple[VisualUnit, ...]

    def __len__(self) -> int:
        return sum(map(len, self.units))

    @cached_property
    def is_patch(self) -> Tensor:
        """Bool[N]."""
        return torch.cat([unit.is_patch for unit in self.units])


def tiled(units: Iterable[VisualUnit], counts: Iterable[int]) -> list[TiledImage]:
    """The images of a batch. units: of all of them, in order; counts: how many each has."""
    left = iter(units)
    return [TiledImage(tuple(itertools.islice(left, count))) for count in counts]


def units_of(image: VisualUnit | TiledImage) -> Sequence[VisualUnit]:
    """What the encoder makes of an image, in order."""
    return image.units if isinstance(image, TiledImage) else (image,)
