"""Ids of a part of the tokens are moved by cells of the grid, or some ids are wrong, with nothing dropped.

What one cell down or to the right means is read off the unpruned ids themselves: 12 and 1 for a grid of 12 columns
that is numbered in raster order, one on the height or the width axis of M-RoPE. Ids that move onto others' collide
with them, and none falls below 0.
"""

from __future__ import annotations

import zlib

import torch
from torch import Tensor

from groundprune.errors import GroundPruneError, Unservable
from groundprune.evaluation.interventions import Intervention, Truths
from groundprune.pruners import Pruner
from groundprune.studies.parts.forcing import regions_of
from groundprune.tokens.layout import VisualLayout
from groundprune.tokens.positions import Misaligned, Policy, Row

AXES = {"row": (1, 0), "column": (0, 1)}  # the cell that lies one step from the first, as row and column
# "one of the ...": a random token of it. "text": what follows the image. "all": image and text, which is the common
# shift of `shifted:N`.
PARTS = (
    "target", "rest", "first row", "last row", "grid", "one of the target", "one of the rest", "text", "all",
)  # fmt: skip


def moved(part: str, axis: str, by: int) -> Intervention:
    """The intervention that moves the ids of one part of a prompt by whole cells.

    Args:
        part: one of PARTS.
        axis: "row" moves down the grid, "column" to the right.
        by: cells, of either sign.

    Returns:
        Intervention of the position policy; at run time Unservable for images of several grids, or of one line.

    Raises:
        GroundPruneError: no such part or axis.
    """
    if part not in PARTS or axis not in AXES:
        raise GroundPruneError(f"no part {part!r} moves along {axis!r}")

    def change(pruner: Pruner, policy: Policy, truths: Truths) -> tuple[Pruner, Policy]:
        def rule(row: Row) -> tuple[Tensor, int]:
            step = by * step_of(row.layout, axis)
            if part in ("text", "all"):
                common = int(step.sum())  # text counts alike on every axis
                first = row.layout.column[0] if part == "all" else row.layout.column[-1] + 1
                return (row.original + common * (row.column >= first)).clamp(min=0), common
            ids = row.original.clone()
            mine = row.slot[part_of(part, truths, row.layout)[row.kept]]
            ids[:, mine] = (ids[:, mine] + step[:, None]).clamp(min=0)
            return ids, 0

        return pruner, Misaligned(f"{part} moved", rule, splits_flash_sequences=True)

    return change


def wrong(how: str, count: int | None) -> Intervention:
    """The intervention that gives some random patches an id that is another's.

    Of one sample, the wrong ones of a smaller count are among those of a larger.

    Args:
        how: "permuted" passes ids around among the chosen (2 at least, else nothing is wrong); "displaced" gives
            each that of any other patch, which keeps its own too.
        count: how many; None = all.

    Returns:
        Intervention of the position policy.
    """

    def change(pruner: Pruner, policy: Policy, truths: Truths) -> tuple[Pruner, Policy]:
        def rule(row: Row) -> tuple[Tensor, int]:
            patches = row.layout.patches.cpu()
            generator = _generator(truths, row.layout)
            order = torch.randperm(len(patches), generator=generator)
            far = torch.randint(1, max(2, len(patches)), (len(patches),), generator=generator)
            chosen = order[:count]
            source = chosen.roll(1) if how == "permuted" else (chosen + far[: len(chosen)]) % len(patches)
            given = row.layout.position.clone()
            given[:, patches[chosen]] = row.layout.position[:, patches[source]]
            ids = row.original.clone()
            ids[:, row.slot] = given[:, row.kept]
            return ids, 0

        return pruner, Misaligned(f"{count} {how}", rule, splits_flash_sequences=True)

    return change


def step_of(layout: VisualLayout, axis: str) -> Tensor:
    """Long[A]: by how much the ids grow from one cell of the grid to the next along an axis.

    Raises Unservable where there is no next cell, or more than one grid.
    """
    if len(layout.groups()) != 1:
        raise Unservable("ids are moved over one grid of patches; this model sees an image as several")

    def at(row: int, col: int) -> Tensor:
        found = (layout.is_patch & (layout.row == row) & (layout.col == col)).nonzero().squeeze(1)
        if len(found) != 1:
            raise Unservable(f"the grid has no second {axis} that ids could be moved to")
        return layout.position[:, int(found[0])]

    return at(*AXES[axis]) - at(0, 0)


def part_of(part: str, truths: Truths, layout: VisualLayout) -> Tensor:
    """Bool[N]: the tokens of a part (but "text" and "all", which hold more than those), patches all of them."""
    if part == "grid":
        return layout.is_patch
    if part in ("first row", "last row"):
        row = 0 if part == "first row" else int(layout.row.max())
        return layout.is_patch & (layout.row == row)
    target = regions_of(truths, layout)["target"]
    mine = target if part in ("target", "one of the target") else layout.is_patch & ~target
    if part in ("target", "rest") or not bool(mine.any()):
        return mine
    among = mine.nonzero().squeeze(1)
    drawn = int(torch.randint(len(among), (1,), generator=_generator(truths, layout)))
    return torch.zeros_like(mine).index_fill(0, among[drawn], True)


def _generator(truths: Truths, layout: VisualLayout) -> torch.Generator:
    """Of the sample alone: the same tokens under every setting, in whatever batch."""
    return torch.Generator().manual_seed(zlib.crc32(truths.sample(layout).id.encode()))
