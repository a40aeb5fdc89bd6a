"""Ids that no model was trained with: what studies move to see what a model makes of it.

A rule is a pure function of a `groundprune.tokens.compaction.Row`, as policies are.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from fractions import Fraction
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from groundprune.errors import Unservable

if TYPE_CHECKING:
    from groundprune.tokens.compaction import Row

_LIMIT = 2**31  # of shifts and seeds


def shifted(by: int, row: Row) -> tuple[Tensor, int]:
    """The ids of the images and of all that follows move by `by`."""
    first = row.layout.column[0]
    ids = row.original + by * (row.column >= first)
    if int(ids.min()) < 0:
        raise Unservable(f"shifted:{by} would make a position id negative ({int(ids.min())})")
    return ids, by


def permuted(seed: int, share: float, row: Row) -> tuple[Tensor, int]:
    """Ids are shuffled among a share of each row's kept visual tokens; rows and causal order stay."""
    generator = torch.Generator().manual_seed(seed)
    slots = row.slot.cpu()
    chosen = slots[torch.randperm(len(slots), generator=generator)[: round(share * len(slots))]]
    chosen = chosen.sort().values
    shuffled = chosen[torch.randperm(len(chosen), generator=generator)]
    ids = row.original.clone()
    ids[:, chosen.to(ids.device)] = row.original[:, shuffled.to(ids.device)]
    return ids, 0


def scaled(factor: Fraction, row: Row) -> tuple[Tensor, int]:
    """The ids of each image are spread over `factor` times their range, from the first on; what follows keeps its
    distance to the image's end."""
    ids, moved = row.original.clone(), 0
    for image in range(row.layout.n_images):
        columns = row.layout.column[row.layout.image == image]
        low, high = row.position[:, columns].aminmax(dim=1, keepdim=True)
        mine = row.slot[row.layout.image[row.kept] == image]
        # Whole-number form of floor(factor * distance).
        spread = low + (row.original[:, mine] - low) * factor.numerator // factor.denominator
        ids[:, mine] = spread + moved
        grown = int((high - low).max()) * factor.numerator // factor.denominator - int((high - low).max())
        ids[:, row.column > columns[-1]] += grown
        moved += grown
    return ids, moved


RULES = {"shifted": shifted, "permuted": permuted, "scaled": scaled}


def misalignment(text: str) -> tuple[str, Callable[[Row], tuple[Tensor, int]], bool] | None:
    """The name of a policy in its shortest form, its rule, and whether its ids are not ascending.

    text: shifted:N, permuted:SEED[:SHARE] or scaled:FACTOR. None where the argument is malformed.
    """
    name, _, argument = text.partition(":")
    try:
        if name == "shifted" and abs(by := int(argument)) < _LIMIT:
            return f"shifted:{by}", functools.partial(shifted, by), False
        if name == "scaled" and 0 < (factor := Fraction(argument)) <= 64:
            return f"scaled:{factor}", functools.partial(scaled, factor), factor < 1
        if name == "permuted":
            seed, _, share = argument.partition(":")
            number, part = int(seed), float(share) if share else 1.0
            if 0 <= number < _LIMIT and 0 < part <= 1:
                short = f"permuted:{number}" + ("" if part == 1 else f":{part:g}")
                return short, functools.partial(permuted, number, part), True
    except (ValueError, ZeroDivisionError):
        pass
    return None
