"""Policies that move the ids of an image's tokens along one axis: of the grid, or of the ids."""

from __future__ import annotations

import torch
from torch import Tensor

from groundprune.errors import Unservable
from groundprune.evaluation.interventions import Intervention, Truths
from groundprune.pruners import Pruner
from groundprune.tokens.positions import Misaligned, Policy, ReassignedImage, Row

AXES = ("time", "rows", "columns")  # of M-RoPE's ids, in their order


def lines_shuffled(which: str, seed: int = 0) -> Intervention:
    """The intervention that gives each token the ids of the token in another row ("rows") or column ("columns").

    Whole rows, or columns, change places with each other; what is in a line keeps its order. One grid an image, and
    nothing dropped, else Unservable.
    """

    def rule(row: Row) -> tuple[Tensor, int]:
        layout = row.layout
        if len(layout.groups()) != 1 or len(row.kept) != len(layout):
            raise Unservable("lines of the grid are shuffled where an image is one grid and nothing is dropped")
        rows, cols = layout.grid(layout.patches)
        order = torch.randperm(rows if which == "rows" else cols, generator=torch.Generator().manual_seed(seed))
        order = order.to(layout.row.device)
        at = (order[layout.row], layout.col) if which == "rows" else (layout.row, order[layout.col])
        index = torch.empty(rows * cols, dtype=torch.long, device=layout.row.device)
        index[layout.row * cols + layout.col] = torch.arange(len(layout), device=index.device)
        ids = row.original.clone()
        ids[:, row.slot] = row.original[:, row.slot[index[at[0] * cols + at[1]]]]
        return ids, 0

    def change(pruner: Pruner, policy: Policy, truths: Truths) -> tuple[Pruner, Policy]:
        return pruner, Misaligned(f"{which}-shuffled", rule, splits_flash_sequences=True)

    return change


def axis_reassigned(axis: str) -> Policy:
    """Each image's ids are consecutive on one axis of M-RoPE alone, those of the other axes and of text stay.

    Where ids have one axis, Unservable.
    """
    number = AXES.index(axis)

    def rule(row: Row) -> tuple[Tensor, int]:
        if len(row.original) != len(AXES):
            raise Unservable(f"the ids of this model have {len(row.original)} axes, not time, rows and columns")
        ids = row.original.clone()
        ids[number] = ReassignedImage().ids(row)[0][number]
        return ids, 0

    return Misaligned(f"{axis}-reassigned", rule, splits_flash_sequences=True)
