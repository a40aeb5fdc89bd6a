"""The position policies by name: `preserved`, what other code does to ids, and what studies do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from groundprune.errors import GroundPruneError, unknown
from groundprune.tokens.compaction import PRESERVED, Policy, Preserved, Row

__all__ = [
    "FORMS", "PLAIN", "Misaligned", "Policy", "Preserved", "Reassigned", "ReassignedImage", "Row", "Stretched",
    "parse_policy",
]  # fmt: skip


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
    """A rule of `tokens.misalignments`, or of a study: ids move though nothing need be pruned."""

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


PLAIN: dict[str, Policy] = {p.name: p for p in (PRESERVED, Reassigned(), ReassignedImage(), Stretched())}
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
