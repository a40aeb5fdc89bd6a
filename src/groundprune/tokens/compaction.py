"""From a keep mask to shorter rows: gather index, masks. Pure tensor arithmetic, no model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from groundprune.tokens.layout import VisualLayout
from groundprune.tokens.policy import Policy, Row


@dataclass(frozen=True, eq=False)
class Compaction:
    """Which original column stands in each slot of the shortened batch, left padded to the longest row.

    index: Long[B, S], the original column of each slot (any column where `mask` is False).
    mask: Bool[B, S], False = padding.
    length: number of columns of the unpruned batch.
    reordered: Long[B, S] or None, the column whose PLACE each slot has taken, ascending, where slots do not stand in
    the order of their columns; see `compact`.
    """

    index: Tensor
    mask: Tensor
    length: int
    reordered: Tensor | None = None

    @property
    def slots(self) -> int:
        return self.index.shape[1]

    @property
    def dropped(self) -> int:
        """How many columns the batch lost (the longest row counts)."""
        return self.length - self.slots

    def gather(self, x: Tensor, fill: int = 0) -> Tensor:
        """x: [..., B, L] -> [..., B, S]; slots of padding get `fill`. A batch of one in `x` is expanded."""
        index = self.index.expand(*x.shape[:-2], *self.index.shape)
        x = x.expand(*x.shape[:-2], self.index.shape[0], x.shape[-1])
        return torch.gather(x, -1, index).masked_fill(~self.mask, fill)

    @property
    def place(self) -> Tensor:
        """Long[B, S]: what causal masks and windows go by; `index`, unless slots were reordered."""
        return self.index if self.reordered is None else self.reordered

    def without_last(self, count: int) -> Compaction:
        """As if the unpruned batch had been shorter by its last `count` columns, all of which stayed."""
        held = None if self.reordered is None else self.reordered[:, :-count]
        return Compaction(self.index[:, :-count], self.mask[:, :-count], self.length - count, held)

    def with_later(self, later: Tensor) -> Compaction:
        """With columns behind the batch that all stay. later: Bool[B, T], False = padding."""
        new = torch.arange(self.length, self.length + later.shape[1], device=self.index.device)
        new = new.expand(len(self.index), -1)
        held = None if self.reordered is None else torch.cat([self.reordered, new], dim=1)
        mask = torch.cat([self.mask, later], dim=1)
        return Compaction(torch.cat([self.index, new], dim=1), mask, self.length + later.shape[1], held)

    def repeated(self, copies: int) -> Compaction:
        """Each row `copies` times, as `generate` repeats the rows of a batch."""
        held = None if self.reordered is None else self.reordered.repeat_interleave(copies, dim=0)
        index, mask = (x.repeat_interleave(copies, dim=0) for x in (self.index, self.mask))
        return Compaction(index, mask, self.length, held)

    def slots_of(self, row: int, columns: Tensor) -> Tensor:
        """Long[C]: the slots of a row that stand for these columns, all of them kept."""
        return _slots_of(self.index[row : row + 1], self.length, columns[None])[0]

    def slots_in(self, earlier: Compaction) -> Tensor:
        """Long[B, S]: where each slot's column stands among the slots of an earlier, longer compaction."""
        return _slots_of(earlier.index, self.length, self.index)

    def places_in(self, earlier: Compaction) -> Tensor:
        """Long[B, S]: which slot of an earlier compaction stood in each slot's place: its mask is now this one's."""
        return _slots_of(earlier.place, self.length, self.place)

    def grown_mask(self, mask: Tensor | None, tail: int) -> Tensor:
        """Bool[B, S + tail]: the mask over the compact columns and `tail` columns that came after them.

        mask: [B, L + tail] over the unpruned columns, as `generate` grows it, or None (no padding).
        """
        if mask is None:
            newer = self.mask.new_ones(self.mask.shape[0], tail)
        else:
            newer = mask[:, self.length : self.length + tail].bool().to(self.mask.device)
        return torch.cat([self.mask, newer], dim=1)


def compact(keep: Tensor, place: Tensor | None = None) -> Compaction:
    """keep: Bool[B, L], True = the column stays (padding is not kept).

    place: Long[B, L], the column whose place each kept one takes (a permutation of the kept ones of a row), or None =
    the order of the columns is unchanged.
    """
    length = keep.shape[1]
    slots = int(keep.sum(1).max())
    own = torch.arange(length, device=keep.device).expand_as(keep)
    # Dropped columns come first, and the kept ones ascend by their places.
    order = torch.argsort((own if place is None else place).masked_fill(~keep, -1), dim=1, stable=True)
    index = order[:, length - slots :]
    reordered = None if place is None or place.equal(own) else torch.gather(place, 1, index)
    return Compaction(index, torch.gather(keep, 1, index), length, reordered)


def emitted(columns: Tensor, length: int) -> Tensor:
    """Long[L]: `place` of a row of `length` columns whose kept visual ones a method emits in the order of `columns`.

    columns: Long[K], distinct. The first emitted takes the place of the leftmost, and so on: what stands between
    images stays between them as long as a method emits one image after another.
    """
    place = torch.arange(length, device=columns.device)
    return place.scatter(0, columns, columns.sort().values)


def placed(
    policy: Policy,
    position: Tensor,
    valid: Tensor,
    layouts: Sequence[VisualLayout],
    kept: Sequence[Tensor],
    orders: Sequence[Tensor | None],
) -> tuple[Compaction, Tensor, Tensor, list[Tensor]]:
    """What becomes of rows of which the `kept` tokens stay.

    Gives their slots; Long[A, B, S], the ids in them; Long[B], by how much later ids move; and kept, in sequence.
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
        new[:, b, mine], shift = policy(Row(position[:, b], compaction.index[b, mine], layout, left))
        shifts.append(shift)
    return compaction, new, torch.tensor(shifts, device=position.device), list(kept)


def _slots_of(held: Tensor, length: int, columns: Tensor) -> Tensor:
    """Long[B, S] columns of slots, Long[B, C] columns -> Long[B, C] slots."""
    slots = torch.arange(held.shape[1], device=held.device).expand_as(held)
    # Slots of padding name columns that were dropped, so no kept column is written twice.
    return held.new_zeros(len(held), length).scatter(1, held, slots).gather(1, columns)
