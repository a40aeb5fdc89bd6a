"""What became of a prompt: which columns stayed in which layers, with which ids."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from groundprune.tokens.compaction import Compaction
from groundprune.tokens.layout import VisualLayout
from groundprune.tokens.selection import Selection


@dataclass(frozen=True, eq=False)
class PrunedRow:
    """What became of one prompt row before the LLM.

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
    its visual tokens the layers saw on prefill; where a later stage evicts, the compaction holds fewer. merged:
    states of dropped tokens went into kept ones.
    """

    layer: int
    compaction: Compaction
    position: Tensor
    shift: Tensor
    kept: list[Tensor]
    merged: bool = False

    def without_last(self, count: int) -> Segment:
        """As if the prompt had been shorter by its last `count` columns, all of them text."""
        short = self.compaction.without_last(count)
        return replace(self, compaction=short, position=self.position[..., : short.slots])

    def repeated(self, copies: int) -> Segment:
        """Each row `copies` times, as `generate` repeats the rows of a batch."""
        return replace(
            self,
            compaction=self.compaction.repeated(copies),
            position=self.position.repeat_interleave(copies, dim=1),
            shift=self.shift.repeat_interleave(copies),
            kept=[kept for kept in self.kept for _ in range(copies)],
        )


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

    def ends_in_words(self, count: int) -> bool:
        """Whether the last `count` slots of every row are text."""
        first = self.compaction.index[:, -count].tolist()
        return count < self.compaction.slots and all(
            not len(row.layout) or column > self.offset + int(row.layout.column[-1])
            for row, column in zip(self.rows, first, strict=True)
        )

    def without_last(self, count: int) -> PrunedPrompt:
        """As if the prompt had been shorter by its last `count` columns, all of them text."""
        segments = [segment.without_last(count) for segment in self.segments]
        ids = None if self.ids is None else self.ids[:, : segments[0].compaction.length]
        return replace(self, segments=segments, next_position=self.next_position - count, ids=ids)

    def repeated(self, copies: int) -> PrunedPrompt:
        """See `Segment.repeated`."""
        rows = [row for row in self.rows for _ in range(copies)]
        segments = [segment.repeated(copies) for segment in self.segments]
        return replace(
            self,
            rows=rows,
            segments=segments,
            next_position=self.next_position.repeat_interleave(copies),
            ids=None if self.ids is None else self.ids.repeat_interleave(copies, dim=0),
            earlier=self.earlier and self.earlier.repeated(copies),
        )

    def behind(self, earlier: PrunedPrompt, held: Tensor, ids: Tensor) -> PrunedPrompt:
        """This turn's prompt on the cache of `earlier` ones.

        held: Bool[B, S], the mask over that cache. ids: Long[B, L], of all columns or of the new ones alone.
        """
        before, first = earlier.compaction, self.segments[0]
        offset = before.length + held.shape[1] - before.slots
        later = torch.arange(before.length, offset, device=held.device).expand(len(held), -1)
        now = first.compaction
        index = torch.cat([before.index, later, now.index + offset], dim=1)
        place = torch.cat([before.place, later, now.place + offset], dim=1)
        mask = torch.cat([held, now.mask], dim=1)
        compaction = Compaction(index, mask, offset + now.length, None if place.equal(index) else place)
        joined = replace(first, compaction=compaction, shift=first.shift + earlier.shift)
        known = ids if ids.shape[1] == compaction.length else earlier.ids
        return replace(self, segments=[joined], ids=known, earlier=earlier, offset=offset)
