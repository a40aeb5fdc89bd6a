"""What became of a prompt, kept with the KV cache that it filled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

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

    column: Long[S], the columns that stayed; position: Long[A, S], their ids; features: [K, D], what the LLM
    reads in the kept slots.
    """

    layout: VisualLayout
    selection: Selection
    column: Tensor
    position: Tensor
    features: Tensor


@dataclass(frozen=True, eq=False)
class PrunedPrompt:
    """What became of one prefill.

    shift: Long[B], added to the unpruned ids of later tokens. next_position: Long[B], the first later token's id.
    """

    rows: list[PrunedRow]
    compaction: Compaction
    shift: Tensor
    next_position: Tensor


def remember(output: Any, state: PrunedPrompt) -> None:
    """Keep the state with the cache in a forward's output; copies of the cache carry it too."""
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
    if past < state.compaction.slots:
        raise Unservable(
            f"this cache was cropped to {past} columns, inside of its pruned prompt of {state.compaction.slots}: "
            "start from an empty cache"
        )
    if rows != len(state.rows):
        raise Unservable(f"this cache was filled by {len(state.rows)} pruned rows, and is used with {rows}")
    return state
