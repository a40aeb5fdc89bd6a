"""What became of a prompt, kept with the KV cache that it filled."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import Cache

from groundprune.compaction import Compaction
from groundprune.errors import Unservable
from groundprune.layout import VisualLayout
from groundprune.pruners.base import Selection

_ATTRIBUTE = "groundprune_state"


@dataclass(frozen=True, eq=False)
class PrunedRow:
    """What became of one prompt row.

    column: Long[S], the columns that stayed, in sequence; position: Long[A, S], their ids; features: [K, D], what the
    LLM reads in place of the kept tokens, in the order of `selection.kept`.
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
    its visual tokens the layers saw on prefill, in sequence (ascending, unless the policy is `in_order`); where a
    later stage evicts, the compaction holds fewer. merged: states of dropped tokens went into kept ones.
    """

    layer: int
    compaction: Compaction
    position: Tensor
    shift: Tensor
    kept: list[Tensor]
    merged: bool = False


@dataclass(frozen=True, eq=False)
class PrunedPrompt:
    """What became of one prefill.

    segments: from the first layer on; more than one where tokens were dropped between layers, later ones are added
    as the prefill reaches them. next_position: Long[B], the unpruned id of the first later token.
    earlier, offset: of an image in a later turn, what became of the turns before it and how many unpruned columns
    they had. `rows` then speaks of the new columns alone, the compaction of all.
    """

    rows: list[PrunedRow]
    segments: list[Segment]
    next_position: Tensor
    earlier: PrunedPrompt | None = None
    offset: int = 0

    @property
    def pruned(self) -> bool:
        """Whether any token was dropped, before the LLM or on the way through it."""
        left = self.segments[-1].kept
        return any(len(kept) < len(row.layout) for kept, row in zip(left, self.rows, strict=True))

    def ends_in_words(self, count: int) -> bool:
        """Whether the last `count` columns of every row are text."""
        rows = zip(self.rows, self.compaction.index, strict=True)
        return all(
            not len(row.layout) or int(index[-count]) > self.offset + int(row.layout.column[-1])
            for row, index in rows
        )

    def behind(self, earlier: PrunedPrompt, held: Tensor) -> PrunedPrompt:
        """This turn's prompt on the cache of `earlier` ones. held: Bool[B, S], the mask over that cache."""
        (segment,), before = self.segments, earlier.compaction
        tail = torch.arange(held.shape[1] - before.slots, device=held.device) + before.length
        offset = before.length + len(tail)
        between, now = tail.expand(len(held), -1), segment.compaction
        index = torch.cat([before.index, between, now.index + offset], dim=1)
        place = torch.cat([before.place, between, now.place + offset], dim=1)
        compaction = Compaction(index, torch.cat([held, now.mask], dim=1), offset + now.length, place)
        joined = replace(segment, compaction=compaction, shift=segment.shift + earlier.shift)
        return replace(self, segments=[joined], earlier=earlier, offset=offset)

    def without_last(self, count: int) -> PrunedPrompt:
        """As if the prompt had been shorter by its last `count` columns."""
        segments = [
            replace(
                segment,
                compaction=Compaction(
                    segment.compaction.index[:, :-count],
                    segment.compaction.mask[:, :-count],
                    segment.compaction.length - count,
                    None if segment.compaction.reordered is None else segment.compaction.reordered[:, :-count],
                ),
                position=segment.position[..., :-count],
            )
            for segment in self.segments
        ]
        return replace(self, segments=segments, next_position=self.next_position - count)

    @property
    def compaction(self) -> Compaction:
        """Of what entered the LLM: `generate` measures the cache by its first layer."""
        return self.segments[0].compaction

    @property
    def shift(self) -> Tensor:
        return self.segments[0].shift


def untouched(rows: int, past: int, mask: Tensor | None) -> PrunedPrompt:
    """The state of a cache of `past` columns that nothing was dropped from. mask: [B, past] or None."""
    held = torch.ones(rows, past, dtype=torch.bool) if mask is None else mask.bool()
    index = torch.arange(past, device=held.device).expand(rows, -1)
    shift = torch.zeros(rows, dtype=torch.long, device=held.device)
    return PrunedPrompt([], [Segment(0, Compaction(index, held, past), index[None], shift, [])], held.sum(1))


def remember(output: Any, state: PrunedPrompt) -> None:
    """Keep the state with the cache in a forward's output; copies of the cache carry it too.

    Without the features, which decoding does not need: they would stay in memory as long as the cache.
    """
    state = replace(state, rows=[replace(row, features=row.features[:0]) for row in state.rows])
    found = output if isinstance(output, tuple) else [getattr(output, "past_key_values", None)]
    for cache in found:
        if isinstance(cache, Cache):
            setattr(cache, _ATTRIBUTE, state)


def pruned(cache: Any) -> bool:
    """Whether a cache (or None) holds a pruned prompt."""
    return hasattr(cache, _ATTRIBUTE) and cache.get_seq_length() > 0


def recall(cache: Any, past: int, rows: int) -> PrunedPrompt | None:
    """The state of a cache that holds `past` columns of a batch of `rows`; None where nothing was pruned.

    Raises Unservable where the cache was cut inside of the pruned prompt, or holds another number of rows: which of
    its columns are which can then no longer be told.
    """
    state: PrunedPrompt | None = getattr(cache, _ATTRIBUTE, None)
    if state is None:
        return None
    if past == 0:
        delattr(cache, _ATTRIBUTE)  # the cache was reset: what it knew belongs to another conversation
        return None
    extra = state.compaction.slots - past
    if extra > 0 and state.ends_in_words(extra):
        # Drafted tokens that came along with the prompt, and were rejected.
        state = state.without_last(extra)
        setattr(cache, _ATTRIBUTE, state)
    elif extra > 0:
        raise Unservable(
            f"this cache was cropped to {past} columns, inside of its pruned prompt of {state.compaction.slots}: "
            "start from an empty cache"
        )
    if rows != len(state.rows):
        raise Unservable(f"this cache was filled by {len(state.rows)} pruned rows, and is used with {rows}")
    return state
