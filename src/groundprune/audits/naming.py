"""What became of ids, in words: the rule that leads from those of the unpruned prompt to those that were measured.

Positions are Double[K, A], of K slots in sequence; A = 1, or 3 for M-RoPE. Two are equal where they differ by less
than `CLOSE` on every axis: ids are whole numbers, or spread evenly.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

CLOSE = 0.2
PRESERVED, RENUMBERED, PER_IMAGE, STRETCHED, PERMUTED = (
    "preserved", "renumbered", "renumbered per image", "stretched", "permuted",
)  # fmt: skip
UNKNOWN = "could not tell"
KEPT = "kept"


@dataclass(frozen=True, eq=False)
class Visuals:
    """The visual slots of one layer.

    Attributes:
        slot: Long[K], where they stand.
        position: Double[K, A], as measured, less the shift of what stands before.
        own: Double[K, A], the unpruned ids of what they hold; NaN of merged features.
        image: Long[K].
        every: Double[N, A], the unpruned ids of all visual tokens.
        every_image: Long[N].
    """

    slot: Tensor
    position: Tensor
    own: Tensor
    image: Tensor
    every: Tensor
    every_image: Tensor


def same(a: Tensor, b: Tensor) -> Tensor:
    """Bool[...]: equal on every axis."""
    return ((a - b).abs() < CLOSE).all(-1)


def visual_rule(it: Visuals) -> str:
    """The rule that explains the ids of visual slots."""
    if not len(it.slot):
        return PRESERVED
    known = ~it.own.isnan().any(-1)
    moved = it.position[known] - it.own[known]
    rules = [(RENUMBERED, _consecutive), (PER_IMAGE, _per_image), (STRETCHED, _stretched)]
    if known.any() and same(moved, torch.zeros(())).all() and _dropped_ids(it, known):
        return PRESERVED
    if known.any() and same(moved, moved[:1]).all() and _one(moved[0]) and _dropped_ids(it, known, moved[0]):
        return f"shifted by {_signed(moved[0, 0])}"
    if not known.any() and len(it.slot) == len(it.every) and same(it.position, it.every).all():
        return PRESERVED
    for name, rule in rules:
        if rule(it):
            return name
    if not known.any() and _dropped_ids(it, known) and _ascends(it.position):
        return PRESERVED
    if _permuted(it, known):
        return PERMUTED
    count = int((~same(moved, torch.zeros(()))).sum())
    if count:
        at = int((~same(moved, torch.zeros(()))).nonzero()[0])
        return f"other: {count} of {len(moved)} moved, the first by {_vector(moved[at])}"
    return f"other: {int((~known).sum())} merged features hold ids of no dropped token"


def text_rule(moved: Tensor, piece: Tensor) -> str:
    """What became of words behind the first visual token.

    moved: Double[T, A], from their unpruned ids; piece: Long[T], how many images stand before each.
    """
    if not len(moved) or same(moved, torch.zeros(())).all():
        return KEPT
    each = [moved[piece == i] for i in piece.unique()]
    if all(bool(same(part, part[:1]).all()) and _one(part[0]) for part in each):
        steps = list(dict.fromkeys(round(float(part[0, 0])) for part in each))
        return _moved(steps)
    wrong = ~same(moved, torch.zeros(()))
    return f"other: {int(wrong.sum())} of {len(moved)} moved, the first by {_vector(moved[wrong][0])}"


def _moved(steps: list[int]) -> str:
    """ "moved up by 5, 9": to ids that are less by so much, behind each image."""
    if max(steps) <= 0:
        return f"moved up by {', '.join(str(-step) for step in steps)}"
    if min(steps) >= 0:
        return f"pushed back by {', '.join(map(str, steps))}"
    return f"moved by {', '.join(f'{step:+d}' for step in steps)}"


def generated_rule(moved: Tensor) -> str:
    """Likewise of generated tokens, from the ids that go on from the unpruned prompt."""
    if not len(moved):
        return "none"
    if same(moved, torch.zeros(())).all():
        return "continue from the unpruned length"
    if same(moved, moved[:1]).all() and _one(moved[0]):
        return _moved([round(float(moved[0, 0]))])
    wrong = ~same(moved, torch.zeros(()))
    return f"{int(wrong.sum())} of {len(moved)} moved, token {int(wrong.nonzero()[0])} by {_vector(moved[wrong][0])}"


def _dropped_ids(it: Visuals, known: Tensor, shift: Tensor | None = None) -> bool:
    """Whether merged features took ids of tokens that did not stay, each its own."""
    every = it.every if shift is None else it.every + shift
    taken = torch.zeros(len(every), dtype=torch.bool)
    for position in it.position[known]:
        taken[same(every, position).nonzero().flatten()[:1]] = True
    for position in it.position[~known]:
        free = (same(every, position) & ~taken).nonzero().flatten()
        if not len(free):
            return False
        taken[free[0]] = True
    return True


def _consecutive(it: Visuals) -> bool:
    steps = it.position - it.position[:1] - (it.slot - it.slot[0])[:, None]
    return bool(same(steps, torch.zeros(())).all()) and bool((it.position[0] - it.position[0, 0]).abs().max() < CLOSE)


def _per_image(it: Visuals) -> bool:
    return all(
        bool(same(p - p[:1], torch.arange(len(p))[:, None]).all()) and bool((p[0] - p[0, 0]).abs().max() < CLOSE)
        for p in (it.position[it.image == i] for i in it.image.unique())
    )


def _stretched(it: Visuals) -> bool:
    """Spread evenly over the range that an image had, rounded or not."""
    found = False
    for i in it.image.unique():
        p, every = it.position[it.image == i], it.every[it.every_image == i]
        low, high = every.amin(0), every.amax(0)
        even = low + torch.arange(len(p))[:, None] * (high - low) / max(1, len(p) - 1)
        if not ((p - even).abs() < 0.5 + CLOSE).all():
            return False
        whole = ((p - p.round()).abs() < CLOSE).all()
        if not whole and not ((p - even).abs() < CLOSE).all():
            return False
        found = found or len(p) > 1
    return found


def _permuted(it: Visuals, known: Tensor) -> bool:
    distinct = len({tuple(p) for p in it.position.round().tolist()}) == len({tuple(p) for p in it.own.tolist()})
    inside = all(bool(same(it.every, p).any()) for p in it.position)
    moved = int((~same(it.position[known], it.own[known])).sum())
    return moved > 1 and distinct and inside and not _ascends(it.position)


def _ascends(position: Tensor) -> bool:
    """In sequence, axis by axis from the first."""
    rows = [tuple(p) for p in position.round().tolist()]
    return rows == sorted(rows)


def _one(moved: Tensor) -> bool:
    """Whether all axes moved by the same whole number."""
    return bool((moved - moved[0]).abs().max() < CLOSE and (moved[0] - moved[0].round()).abs() < CLOSE)


def _signed(value: Tensor) -> str:
    return f"{round(float(value)):+d}"


def _vector(moved: Tensor) -> str:
    values = [f"{float(v):+.2f}".removesuffix(".00") for v in moved]
    return values[0] if len(set(values)) == 1 else f"({', '.join(values)})"
