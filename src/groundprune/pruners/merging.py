"""Merging: what a rule that mixes tokens gives, and how the pools of a prompt row become one selection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from groundprune.errors import Unservable
from groundprune.pruners.ranking import rows_of
from groundprune.tokens.layout import VisualLayout
from groundprune.tokens.selection import Affine, Merge, Selection


class Merged(NamedTuple):
    """What a merging rule gives for n tokens.

    kept: Long[..., K], ascending: the slots that stay. weight: Float[..., K, n]: the features of each slot as a mix
    of the n tokens. order: Long[..., K], indices into `kept` in the order in which the official code emits them.
    cls: Long[...] or None, the row of `kept` that holds the tower's CLS token; its weight is zero.
    """

    kept: Tensor
    weight: Tensor
    order: Tensor
    cls: Tensor | None = None


def merged(emitted: Tensor, weight: Tensor, cls: int | None = None) -> Merged:
    """From the slots and weights in the order of emission. cls: which emitted one is the CLS token."""
    kept, by_slot = emitted.sort(dim=-1)
    order = by_slot.argsort(dim=-1)
    return Merged(kept, rows_of(weight, by_slot), order, None if cls is None else order[..., cls])


def one_hot(chosen: Tensor, n: int) -> Tensor:
    """Long[..., k] -> Float[..., k, n]: the weight of a mix that takes each token as it is."""
    return torch.nn.functional.one_hot(chosen, n).float()


def at_least(name: str, count: int, least: int, n: int, what: str) -> None:
    """Raises Unservable where fewer than `least` of n tokens are asked for; `what` they are."""
    if count < least:
        raise Unservable(
            f"{name} keeps at least {least} of the {n} tokens of an image ({what}); {count} asked for: the smallest "
            f"are tokens={least} and keep={least}/{n}"
        )


def joined(
    layout: VisualLayout,
    pools: Sequence[Tensor],
    found: Sequence[Tensor | Merged],
    space: str,
    cls: Tensor | None = None,
) -> Selection:
    """One selection of what a rule found in each pool: Long[k] or Merged, indices into it.

    Columns that are no patches stay, each in its slot. space: where features are mixed. cls: [pools, C], what
    `Merged.cls` stands for.
    """
    n, device = len(layout), layout.column.device
    separators = layout.separators
    every = [*zip(pools, found, strict=True), (separators, torch.arange(len(separators), device=device))]
    parts = [(pool, each if isinstance(each, Merged) else _plain(each, len(pool))) for pool, each in every]
    kept, by_slot = torch.cat([pool[part.kept] for pool, part in parts]).sort()
    offsets = torch.tensor([0] + [len(part.kept) for _, part in parts[:-1]]).cumsum(0).tolist()
    emitted = by_slot.argsort()[torch.cat([o + part.order for o, (_, part) in zip(offsets, parts, strict=True)])]
    # Slots that hold patches take what is emitted of them; their number is known, so that nothing is waited for.
    order, other = torch.arange(len(kept), device=device), ~layout.is_patch[kept]
    slots, told = (x.argsort(stable=True)[: len(kept) - len(separators)] for x in (other, other[emitted]))
    order[slots] = emitted[told]
    weight = torch.zeros(len(kept), n, device=device)
    extra = None if cls is None else torch.zeros(len(kept), cls.shape[1], device=device)
    for index, (offset, (pool, part)) in enumerate(zip(offsets, parts, strict=True)):
        rows = torch.arange(offset, offset + len(part.kept), device=device)
        weight[rows[:, None], pool] = part.weight
        if extra is not None and cls is not None and part.cls is not None:
            extra[offset + part.cls.reshape(1)] = cls[index]
    mix = weight[by_slot] if extra is None else Affine(weight[by_slot], extra[by_slot])
    return Selection(kept, Merge(mix, space), order)


def _plain(kept: Tensor, n: int) -> Merged:
    weight = one_hot(kept, n) if n else torch.zeros(0, 0, device=kept.device)
    return Merged(kept, weight, torch.arange(len(kept), device=kept.device))
