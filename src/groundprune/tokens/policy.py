"""A position policy: which ids the kept tokens get, and by how much the ids of what follows move.

Each is a pure function of one row's unpruned ids and of what was kept. `Preserved` is the remedy of GAP
(arXiv 2506.21873): ids stay as they were, and what follows continues from the unpruned length.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from groundprune.tokens.layout import VisualLayout


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
