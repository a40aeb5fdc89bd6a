"""From a keep mask to shorter rows: gather index, masks. Pure tensor arithmetic, no model."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Compaction:
    """Which original column stands in each slot of the shortened batch, left padded to the longest row.

    index: Long[B, S], the original column of each slot (any column where `mask` is False).
    mask: Bool[B, S], False = padding.
    length: number of columns of the unpruned batch.
    """

    index: Tensor
    mask: Tensor
    length: int

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

    def holds(self, row: int, columns: Tensor) -> Tensor:
        """Bool[S]: which slots of a row stand for one of these columns."""
        return self.mask[row] & torch.isin(self.index[row], columns)

    def slots_in(self, earlier: Compaction) -> Tensor:
        """Long[B, S]: where each slot's column stands among the slots of an earlier, longer compaction."""
        where = torch.zeros(len(self.index), self.length, dtype=torch.long, device=self.index.device)
        slots = torch.arange(earlier.slots, device=self.index.device).expand_as(earlier.index)
        # Slots of padding name columns that were dropped, so no kept column is written twice.
        return where.scatter(1, earlier.index, slots).gather(1, self.index)

    def grown_mask(self, mask: Tensor | None, tail: int) -> Tensor:
        """Bool[B, S + tail]: the mask over the compact columns and `tail` columns that came after them.

        mask: [B, L + tail] over the unpruned columns, as `generate` grows it, or None (no padding).
        """
        if mask is None:
            newer = self.mask.new_ones(self.mask.shape[0], tail)
        else:
            newer = mask[:, self.length : self.length + tail].bool().to(self.mask.device)
        return torch.cat([self.mask, newer], dim=1)


def compact(keep: Tensor) -> Compaction:
    """keep: Bool[B, L], True = the column stays (padding is not kept). Order of the columns is unchanged."""
    slots = int(keep.sum(1).max())
    # A stable sort of 0/1 puts the dropped columns first and leaves the kept ones in their order.
    order = torch.argsort(keep.long(), dim=1, stable=True)
    index = order[:, keep.shape[1] - slots :]
    return Compaction(index, torch.gather(keep, 1, index), keep.shape[1])
