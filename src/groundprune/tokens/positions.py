"""Position policies: which ids the kept tokens get, and by how much the ids of what follows move.

Each policy is a pure function of one row's unpruned ids and of what was kept. `preserved` is the remedy of
GAP (arXiv 2506.21873): ids stay as they were, and what follows continues from the unpruned length.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from groundprune.errors import GroundPruneError, unknown
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


@dataclass(frozen=True)
class Reassigned(Policy):
    """What most pruning code does: consecutive ids from the first visual token's on, on every axis.

    Attributes:
        in_order: the visual tokens stand, and are numbered, in the sequence in which the method emits them, not
            in raster order: ids and causal order are those of the authors.
    """

    in_order: bool = False
    name = "reassigned"

    def ids(self, row: Row) -> tuple[Tensor, int]:
        first = int(row.layout.column[0])
        ids = row.original.clone()
        after = row.column >= first
        start = row.position[:, first].max()
        ids[:, after] = start + torch.arange(int(after.sum()), device=ids.device)
        # Later tokens count on from the last column, not from the largest id: a video's times may run ahead of it.
        last = max(int(row.column[-1]), int(row.layout.column[-1]))
        return ids, int(ids.max() - row.position[:, last].max())


@dataclass(frozen=True)
class ReassignedImage(Policy):
    """Each image's ids are consecutive from its first; text keeps its original ids."""

    name = "reassigned-image"

    def ids(self, row: Row) -> tuple[Tensor, int]:
        ids = row.original.clone()
        for columns, slots in _images(row):
            start = row.position[:, columns].amin()
            ids[:, slots] = start + torch.arange(len(slots), device=ids.device)
        return ids, 0


@dataclass(frozen=True)
class Stretched(Policy):
    """Each image's ids are spread evenly over the range they had (Nuwa's remedy); text keeps its ids."""

    name = "stretched"

    def ids(self, row: Row) -> tuple[Tensor, int]:
        ids = row.original.clone()
        for columns, slots in _images(row):
            low, high = row.position[:, columns].aminmax(dim=1, keepdim=True)
            steps = max(1, len(slots) - 1)
            i = torch.arange(len(slots), device=ids.device)
            # Whole-number form of floor(low + i * (high - low) / steps + 1/2).
            ids[:, slots] = low + (2 * i * (high - low) + steps) // (2 * steps)
        return ids, 0


@dataclass(frozen=True)
class Misaligned(Policy):
    """One of `tokens.misalignments`, which studies use: ids move though nothing need be pruned."""

    name: str
    rule: Callable[[Row], tuple[Tensor, int]] = field(compare=False, repr=False)
    splits_flash_sequences: bool = False
    changes_whole_rows = True

    def ids(self, row: Row) -> tuple[Tensor, int]:
        return self.rule(row)


def _images(row: Row) -> list[tuple[Tensor, Tensor]]:
    """Per image that keeps a token: its unpruned columns, and the slots of its kept tokens."""
    slot, image = row.slot, row.layout.image
    pairs = ((row.layout.column[image == i], slot[image[row.kept] == i]) for i in range(row.layout.n_images))
    return [(columns, slots) for columns, slots in pairs if len(slots)]


PLAIN: dict[str, Policy] = {p.name: p for p in (Preserved(), Reassigned(), ReassignedImage(), Stretched())}
FORMS = [*PLAIN, "shifted:N", "permuted:SEED[:SHARE]", "scaled:FACTOR", "official"]


def parse_policy(text: str | Policy, official: str = "reassigned") -> Policy:
    """The policy that a text names.

    Args:
        text: one of FORMS; a Policy is given back as it is.
        official: what "official" stands for, what the pruner's own code does: a policy's name, or
            "reassigned-in-order", which also puts the kept tokens in the order in which that code emits them.

    Returns:
        Policy.

    Raises:
        GroundPruneError: an unknown name, with the nearest, or a malformed argument.
    """
    if isinstance(text, Policy):
        return text
    if text == "official":
        return Reassigned(in_order=True) if official == "reassigned-in-order" else parse_policy(official)
    if text in PLAIN:
        return PLAIN[text]
    from groundprune.tokens.misalignments import RULES, misalignment

    if str(text).partition(":")[0] not in RULES:
        raise unknown("position policy", text, FORMS)
    found = misalignment(text)
    if found is None:
        raise GroundPruneError(f"malformed position policy {text!r} (allowed: {', '.join(FORMS)})")
    return Misaligned(*found)
