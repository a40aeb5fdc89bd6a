"""From what is kept to shorter rows: which column stands in each slot, and with which position id.

A position policy says the ids, and by how much those of what follows move; it is a pure function of one row's
unpruned ids and of what was kept. `Preserved` is the remedy of GAP (arXiv 2506.21873): ids stay as they were, and
what follows continues from the unpruned length. Pure tensor arithmetic, no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from groundprune.tokens.layout import VisualLayout
from groundprune.tokens.sending import sent

IGNORED = -100  # the label of a column that is not predicted


@dataclass(frozen=True, eq=False)
class Compaction:
    """Which original column stands in each slot of the shortened batch, left padded to the longest row.

    index: Long[B, S], the original column of each slot (any column where `mask` is False).
    mask: Bool[B, S], False = padding.
    length: number of columns of the unpruned batch.
    reordered: Long[B, S] or None, the column whose PLACE each slot has taken, ascending, where slots do not stand in
    the order of their columns; see `compact`. unpadded: whether all of `mask` is True, where that is known.
    """

    index: Tensor
    mask: Tensor
    length: int
    reordered: Tensor | None = None
    unpadded: bool | None = None

    def to(self, device: torch.device) -> Compaction:
        """A copy on a device, made on the CPU: what is asked of its mask then need not wait for that device."""
        index, mask = (sent(x, device) for x in (self.index, self.mask))
        reordered = None if self.reordered is None else sent(self.reordered, device)
        return Compaction(index, mask, self.length, reordered, self.full)

    @property
    def full(self) -> bool:
        """Whether no slot is padding."""
        return bool(self.mask.all()) if self.unpadded is None else self.unpadded

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
    def predicted(self) -> Tensor:
        """Bool[B, S], False in padding and for the first word of a row, which no word stands before.

        Stock code predicts that word from padding on its left, and not at all where it is column 0. Here the loss of
        a row is the same in every batch.
        """
        return self.mask & (self.mask.cumsum(1) > 1)

    def labels(self, labels: Tensor) -> Tensor:
        """Long[B, L] -> [B, S], -100 where not `predicted`. A word behind dropped columns is predicted from the last
        kept one."""
        return self.gather(labels).masked_fill(~self.predicted, IGNORED)

    @property
    def place(self) -> Tensor:
        """Long[B, S]: what causal masks and windows go by; `index`, unless slots were reordered."""
        return self.index if self.reordered is None else self.reordered

    def slots_of(self, columns: Tensor, row: int | None = None) -> Tensor:
        """Long[B, C]: the slots that stand for these columns, all of them kept; Long[C] of one `row`."""
        if row is not None:
            return replace(self, index=self.index[row : row + 1]).slots_of(columns[None])[0]
        slots = torch.arange(self.slots, device=columns.device).expand_as(self.index)
        # Slots of padding name columns that were dropped, so no kept column is written twice.
        return self.index.new_zeros(len(self.index), self.length).scatter(1, self.index, slots).gather(1, columns)


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


@dataclass(frozen=True, eq=False)
class Row:
    """One prompt row after selection.

    position: Long[A, L], the unpruned ids of all columns. column: Long[S], the columns that stay, in sequence.
    kept: Long[K], which of the layout's N tokens stay, in sequence. Both ascend, unless the policy is `in_order`.
    """

    position: Tensor
    column: Tensor
    layout: VisualLayout
    kept: Tensor

    @property
    def original(self) -> Tensor:
        """Long[A, S]: the unpruned ids of the columns that stay."""
        return self.position[:, self.column]

    @property
    def slot(self) -> Tensor:
        """Long[K]: where the kept tokens stand among the columns that stay."""
        ascending, slot = self.column.sort()
        return slot[torch.searchsorted(ascending, self.layout.column[self.kept])]

    @property
    def whole(self) -> bool:
        """Whether nothing was dropped."""
        return len(self.kept) == len(self.layout)


class Policy:
    """Base of all policies; one of your own writes `ids`.

    Attributes:
        name: what results call it.
        changes_whole_rows: False: a row that loses nothing keeps its ids, so that keep=1 is the stock model.
        splits_flash_sequences: True: ids do not ascend, which flash kernels read as packed sequences.
        in_order: True: kept tokens stand in the sequence in which the method's own code emits them.
    """

    name: str
    changes_whole_rows = False
    splits_flash_sequences = False
    in_order = False

    def __call__(self, row: Row) -> tuple[Tensor, int]:
        if not len(row.layout) or (row.whole and not self.changes_whole_rows):
            return row.original, 0
        return self.ids(row)

    def ids(self, row: Row) -> tuple[Tensor, int]:
        """The ids of one row.

        Args:
            row: what stays of it.

        Returns:
            Long[A, S], the ids of the columns that stay, and by how much the ids of generated tokens move.
        """
        raise NotImplementedError

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Preserved(Policy):
    """GAP: original ids; text and generated tokens continue from the unpruned length."""

    name = "preserved"

    def ids(self, row: Row) -> tuple[Tensor, int]:
        return row.original, 0


PRESERVED = Preserved()


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
    """What becomes of rows of which the `kept` tokens stay; all on the CPU.

    Gives their slots; Long[A, B, S], the ids in them; Long[B], by how much later ids move; and kept, in sequence.
    position: Long[A, B, L], the unpruned ids; valid: Bool[B, L], no padding; kept, orders: see `Selection`; orders
    count for policies that are `in_order` alone. Where no row drops anything the slots are the unpruned columns,
    padding included.
    """
    if policy.in_order:
        kept = [left if order is None else left[order] for left, order in zip(kept, orders, strict=True)]
    length = valid.shape[1]
    keep, place = valid.clone(), torch.arange(length).repeat(len(valid), 1)
    whole = place.clone()
    for b, (layout, left) in enumerate(zip(layouts, kept, strict=True)):
        keep[b, layout.column] = False
        keep[b, layout.column[left]] = True
        place[b] = emitted(layout.column[left], length)
    unchanged = keep.equal(valid) and place.equal(whole)
    compaction = Compaction(whole, valid, length) if unchanged else compact(keep, place)
    new = torch.zeros(len(position), *compaction.index.shape, dtype=torch.long)
    shifts = []
    for b, (layout, left) in enumerate(zip(layouts, kept, strict=True)):
        mine = compaction.mask[b]
        new[:, b, mine], shift = policy(Row(position[:, b], compaction.index[b, mine], layout, left))
        shifts.append(shift)
    return compaction, new, torch.tensor(shifts), list(kept)
