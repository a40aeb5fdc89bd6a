"""From what each row keeps to the slots, ids and decode shift of a run of decoder layers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from groundprune.compaction import Compaction, compact
from groundprune.hooks.state import Segment
from groundprune.layout import VisualLayout
from groundprune.positions import Policy, Row


def make_segment(
    layer: int,
    policy: Policy,
    position: Tensor,
    valid: Tensor,
    layouts: Sequence[VisualLayout],
    kept: Sequence[Tensor],
    orders: Sequence[Tensor | None],
) -> Segment:
    """The segment that begins at `layer`.

    position: Long[A, B, L], the unpruned ids; valid: Bool[B, L], no padding; kept, orders: see `Selection`. Where no
    row drops anything the slots are the unpruned columns, padding included.
    """
    keep = valid.clone()
    for b, (layout, left) in enumerate(zip(layouts, kept, strict=True)):
        keep[b, layout.column] = False
        keep[b, layout.column[left]] = True
    whole = torch.arange(keep.shape[1], device=keep.device).expand_as(keep)
    compaction = Compaction(whole, valid, keep.shape[1]) if keep.equal(valid) else compact(keep)
    new = torch.zeros(len(position), *compaction.index.shape, dtype=torch.long, device=position.device)
    shifts = []
    for b, (layout, left, order) in enumerate(zip(layouts, kept, orders, strict=True)):
        mine = compaction.mask[b]
        ids, shift = policy(Row(position[:, b], compaction.index[b, mine], layout, left, order))
        new[:, b, mine] = ids
        shifts.append(shift)
    return Segment(layer, compaction, new, torch.tensor(shifts, device=position.device), list(kept))
