"""Which column of the unpruned prompt a slot holds: by what enters the first layer, then from layer to layer.

A row that was gathered is equal to the bit, so slots are told apart by hashes of their rows. What a tower computed in
another way (attention rows eagerly, images one by one) is the same up to rounding: the nearest row is taken then.
"""

from __future__ import annotations

import difflib
from collections import defaultdict, deque
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from groundprune.audits.recordings import Reference

GENERATED, MERGED, PADDING = -1, -2, -3  # what a slot may hold in place of a column
_NEAR = {torch.float64: 1e-3, torch.float32: 1e-3}  # relative distance of rows that are one
_NEAR_HALF = 3e-2


def sequences(passes: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Passes that go on with each other's cache, together."""
    found: list[list[dict[str, Any]]] = []
    for each in passes:
        if not found or not any(layer.get("past") for layer in each["layers"] if layer is not None):
            found.append([])
        found[-1].append(each)
    return found


def row_of(reference: Reference, keys: Tensor, expected: int) -> int:
    """The row of the unpruned batch that a row of slots came from: the one that it shares the most with.

    keys: Long[S]; expected: is taken where rows are alike.
    """
    share = [len(set(keys.tolist()) & set(row.tolist())) for row in reference.key]
    return expected if expected < len(share) and share[expected] == max(share) else share.index(max(share))


def entering(
    reference: Reference,
    row: int,
    keys: Tensor,
    rows: Tensor | None,
    text: Tensor,
    hidden: Tensor | None = None,
    after: int = -1,
) -> Tensor:
    """Long[S]: the column of each slot of a pass.

    Args:
        reference: the unpruned run.
        row: of its batch.
        keys: Long[S], hashes of the slots' rows.
        rows: [S, D], what entered; None where only equal rows are to be found.
        text: Bool[S], what the word embeddings gave.
        hidden: Bool[S], slots that no other sees: padding, whose rows may be anyone's.
        after: columns up to this one went into an earlier pass.
    """
    later = torch.arange(reference.key.shape[1]) > after
    visual = (reference.visual[row] & later).nonzero().squeeze(1)
    words = (~reference.visual[row] & ~reference.padding[row] & later).nonzero().squeeze(1)
    found = torch.full_like(keys, MERGED)
    _in_order(found, keys, visual, reference.key[row], hidden)
    _words(found, keys, words, reference.key[row])
    held, slot = found >= 0, torch.arange(len(keys))
    first, last = (int(held.nonzero().min()), int(held.nonzero().max())) if held.any() else (len(keys), -1)
    pads = torch.isin(keys, reference.key[reference.padding]) & (after < 0)
    found[~held & (pads | (text & (slot < first) & held.any()))] = PADDING
    # Words behind the whole prompt are new ones.
    rest = words[words > int(found.max())] if held.any() else words
    if not len(rest):
        found[(found == MERGED) & text & (slot > last)] = GENERATED
    if rows is not None:
        _nearest(found, rows, visual, reference.embedded[row])
    return found


def followed(columns: Tensor, left: Tensor | None, entered: Tensor, hidden: Tensor | None = None) -> Tensor:
    """Long[S]: the columns of the slots of a layer, from those of the layer before.

    left: Long[S'], hashes of what left it; entered: Long[S]; hidden: as in `entering`.
    """
    if left is None or torch.equal(left, entered):
        return columns
    waiting: dict[int, deque[int]] = defaultdict(deque)
    for slot, key in enumerate(left.tolist()):
        waiting[key].append(slot)
    keys = entered.tolist()
    source = [-1] * len(keys)
    for slot in _seen_first(entered, hidden):
        if waiting[keys[slot]]:
            source[slot] = waiting[keys[slot]].popleft()
    if len(left) == len(entered):  # changed where they stand: levels of features that are added on the way, say
        source = [slot if taken < 0 and slot not in source else taken for slot, taken in enumerate(source)]
    return torch.tensor([int(columns[slot]) if slot >= 0 else MERGED for slot in source])


def _seen_first(slots: Tensor, hidden: Tensor | None) -> list[int]:
    """Slots in sequence, but those that no other sees last."""
    return list(range(len(slots))) if hidden is None else hidden.long().argsort(stable=True).tolist()


def _in_order(found: Tensor, keys: Tensor, columns: Tensor, reference: Tensor, hidden: Tensor | None) -> None:
    """Equal rows, those that occur more than once first to first."""
    waiting: dict[int, deque[int]] = defaultdict(deque)
    for column in columns.tolist():
        waiting[int(reference[column])].append(column)
    for slot in _seen_first(keys, hidden):
        if waiting.get(int(keys[slot])):
            found[slot] = waiting[int(keys[slot])].popleft()


def _words(found: Tensor, keys: Tensor, columns: Tensor, reference: Tensor) -> None:
    """Words keep their order; the same word may stand in many places, and be said again."""
    said = reference[columns].tolist()
    slots = [slot for slot, key in enumerate(keys.tolist()) if found[slot] == MERGED and key in set(said)]
    heard = [int(keys[slot]) for slot in slots]
    start = next((i for i in range(len(heard) - len(said) + 1) if heard[i : i + len(said)] == said), None)
    if start is not None and said:
        blocks = [(start, 0, len(said))]
    else:
        blocks = difflib.SequenceMatcher(None, heard, said, autojunk=False).get_matching_blocks()
    for slot, column, size in blocks:
        for i in range(size):
            found[slots[slot + i]] = columns[column + i]


def _nearest(found: Tensor, rows: Tensor, columns: Tensor, reference: Tensor) -> None:
    slots = (found == MERGED).nonzero().squeeze(1)
    free = columns[~torch.isin(columns, found)]
    if not len(slots) or not len(free):
        return
    distance = torch.cdist(rows[slots].float(), reference[free].float()) / reference[free].float().norm(dim=-1)
    near, which = distance.min(1)
    for i in near.argsort().tolist():  # the surest first
        column = free[which[i]]
        if near[i] < _NEAR.get(rows.dtype, _NEAR_HALF) and not (found == column).any():
            found[slots[i]] = column
