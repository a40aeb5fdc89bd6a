"""What became of a prompt: which columns stayed in which layers, with which ids."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from groundprune.tokens.compaction import Compaction
from groundprune.tokens.growth import without_last
from groundprune.tokens.layout import VisualLayout
from groundprune.tokens.selection import Selection
from groundprune.tokens.sending import sent


@dataclass(frozen=True, eq=False)
class PrunedRow:
    """What became of one prompt row before the LLM. All but the features is on the CPU.

    column: Long[S], the columns that stayed; position: Long[A, S], their ids; features: [K, D], what the LLM reads
    in the kept slots.
    """

    layout: VisualLayout
    selection: Selection
    column: Tensor
    position: Tensor
    features: Tensor


@dataclass(frozen=True, eq=False)
class Segment:
    """A run of decoder layers that see the same tokens.

    layer: the first of them. compaction: of their slots, in unpruned columns. position: Long[A, B, S], the ids in the
    slots (0 in padding). shift: Long[B], added to the unpruned ids of later tokens. kept: per row Long[K], which of
    its visual tokens the layers saw on prefill, on the CPU; where a later stage evicts, the compaction holds fewer.
    merged: states of dropped tokens went into kept ones.
    """

    layer: int
    compaction: Compaction
    position: Tensor
    shift: Tensor
    kept: list[Tensor]
    merged: bool = False

    @functools.cached_property
    def shifts(self) -> list[int]:
        """`shift` as numbers; what reads it again waits for no device."""
        return self.shift.tolist()

    def to(self, device: torch.device) -> Segment:
        """On a device, but for `kept`."""
        position, shift = (sent(x, device) for x in (self.position, self.shift))
        return replace(self, compaction=self.compaction.to(device), position=position, shift=shift)

    def without_last(self, count: int) -> Segment:
        """As if the prompt had been shorter by its last `count` columns, all of them text."""
        short = without_last(self.compaction, count)
        return replace(self, compaction=short, position=self.position[..., : short.slots])


@dataclass(frozen=True, eq=False)
class PrunedPrompt:
    """What became of one prefill.

    segments: from the first layer on; more than one where tokens were dropped between layers, later ones are added
    as the prefill reaches them. next_position: Long[B], the unpruned id of the first later token. ids: Long[B, L],
    the unpruned columns as far as they are known, from the first on.
    earlier, offset: of a later turn, what became of the turns before it and how many unpruned columns they had.
    `rows` then speaks of the new columns alone, the compaction of all.
    """

    rows: list[PrunedRow]
    segments: list[Segment]
    next_position: Tensor
    ids: Tensor | None
    earlier: PrunedPrompt | None = None
    offset: int = 0

    @property
    def pruned(self) -> bool:
        """Whether any token was dropped, before the LLM or on the way through it."""
        left = self.segments[-1].kept
        return any(len(kept) < len(row.layout) for kept, row in zip(left, self.rows, strict=True))

    @property
    def compaction(self) -> Compaction:
        """Of what entered the LLM: the cache is measured by its first layer."""
        return self.segments[0].compaction

    @property
    def shift(self) -> Tensor:
        return self.segments[0].shift

    def slots(self, row: int, length: int) -> list[tuple[int, int, int]]:
        """How much of one prompt row, of `length` unpruned columns without padding, the layers read and keep.

        Per segment its first layer, how many tokens entered it on prefill, and how many the cache then held.
        """
        text = length - len(self.rows[row].layout)
        return [(x.layer, text + len(x.kept[row]), int(x.compaction.mask[row].sum())) for x in self.segments]

    def held_by(self, past: int) -> PrunedPrompt:
        """What a cache of `past` columns holds of it: all, or the turns before."""
        return self.earlier.held_by(past) if self.earlier and past < self.compaction.slots else self


def columns_in(cache: Any) -> int:
    """That a cache of transformers holds; none, where there is no cache."""
    return 0 if cache is None else int(cache.get_seq_length())
