"""From what each row keeps to the slots, ids and decode shift of a run of decoder layers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from groundprune.pruning.prompt import Segment
from groundprune.tokens.compaction import Compaction, compact, emitted
from groundprune.tokens.layout import VisualLayout
from groundprune.tokens.positions import Policy, Row


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

    position: Long[A, B, L], the unpruned ids; valid: Bool[B, L], no padding; kept, orders: see `Selection`; orders
    count for policies that are `in_order` alone. Where no row drops anything the slots are the unpruned columns,
    padding included.
    """
    if policy.in_order:
        kept = [left if order is None else left[order] for left, order in zip(kept, orders, strict=True)]
    length = valid.shape[1]
    keep, place = valid.clone(), torch.arange(length, device=valid.device).repeat(len(valid), 1)
    whole = place.clone()
    for b, (layout, left) in enumerate(zip(layouts, kept, strict=True)):
        keep[b, layout.column] = False
        keep[b, layout.column[left]] = True
        place[b] = emitted(layout.column[left], length)
    unchanged = keep.equal(valid) and place.equal(whole)
    compaction = Compaction(whole, valid, length) if unchanged else compact(keep, place)
    new = torch.zeros(len(position), *compaction.index.shape, dtype=torch.long, device=position.device)
    shifts = []
    for b, (layout, left) in enumerate(zip(layouts, kept, strict=True)):
        mine = compaction.mask[b]
        ids, shift = policy(Row(position[:, b], compaction.index[b, mine], layout, left))
        new[:, b, mine] = ids
        shifts.append(shift)
    return Segment(layer, compaction, new, torch.tensor(shifts, device=position.device), list(kept))
