"""A selection rule, applied to each tile of each image of a prompt row."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from groundprune.errors import Unservable
from groundprune.pruners.ranking import Merged, one_hot
from groundprune.tokens.budget import allot
from groundprune.tokens.layout import VisualLayout
from groundprune.tokens.selection import Affine, Merge, Selection

# (group: Long[n], indices into the row's columns; count, below n) -> Long[count] or Merged, indices into the group
Rule = Callable[[Tensor, int], Tensor | Merged]


def by_tile(
    layout: VisualLayout,
    count: int,
    rule: Rule,
    *,
    groups: Sequence[Tensor] | None = None,
    shares: Sequence[int] | None = None,
    space: str = "projected",
    cls: Tensor | None = None,
) -> Selection:
    """Columns that are no patches stay, each in its slot; each group's share comes from `rule`, or is all of it.

    groups: the tiles by default. shares: tokens per group; by default `count` in proportion to the groups' sizes.
    space: where merged features are mixed. cls: [groups, C], what `Merged.cls` stands for.
    """
    groups = layout.groups() if groups is None else groups
    shares = allot(count, [len(group) for group in groups]) if shares is None else shares
    n, device = len(layout), layout.column.device
    separators = (~layout.is_patch).nonzero().squeeze(1)
    found_in: list[tuple[Tensor, Tensor | Merged]] = []
    start = 0
    cls_rows: list[tuple[int, Tensor]] = []
    for index, (group, share) in enumerate(zip(groups, shares, strict=True)):
        if not share:
            continue
        found = rule(group, share) if share < len(group) else torch.arange(len(group), device=device)
        if isinstance(found, Merged) and found.cls is not None and cls is not None:
            cls_rows.append((start + int(found.cls), cls[index]))
        found_in.append((group, found))
        start += share
    found_in.append((separators, torch.arange(len(separators), device=device)))
    if not any(isinstance(found, Merged) for _, found in found_in):
        return Selection(torch.cat([group[found] for group, found in found_in]).sort().values)
    parts = [(g, found if isinstance(found, Merged) else _plain(found, len(g))) for g, found in found_in]
    kept, by_slot = torch.cat([group[part.kept] for group, part in parts]).sort()
    offsets = torch.tensor([0] + [len(part.kept) for _, part in parts[:-1]], device=device).cumsum(0)
    emitted = by_slot.argsort()[torch.cat([o + part.order for o, (_, part) in zip(offsets, parts, strict=True)])]
    order, patch = torch.arange(len(kept), device=device), layout.is_patch[kept]
    order[patch] = emitted[patch[emitted]]
    weight = torch.zeros(len(kept), n, device=device)
    for offset, (group, part) in zip(offsets.tolist(), parts, strict=True):
        rows = torch.arange(offset, offset + len(part.kept), device=device)
        weight[rows[:, None], group] = part.weight
    extra = torch.zeros(len(kept), cls.shape[1], device=device) if cls is not None and cls_rows else None
    if extra is not None:
        for row, state in cls_rows:
            extra[row] = state
    mix = weight[by_slot] if extra is None else Affine(weight[by_slot], extra[by_slot])
    return Selection(kept, Merge(mix, space), order)


def images(layout: VisualLayout) -> list[Tensor]:
    """One Long tensor of patch indices per image, all its tiles together."""
    each = [(layout.is_patch & (layout.image == i)).nonzero().squeeze(1) for i in range(layout.n_images)]
    return [group for group in each if len(group)]


def at_least(name: str, count: int, least: int, n: int, what: str) -> None:
    """Raises Unservable where fewer than `least` of n tokens are asked for; `what` they are."""
    if count < least:
        raise Unservable(
            f"{name} keeps at least {least} of the {n} tokens of an image ({what}); {count} asked for: the smallest "
            f"are tokens={least} and keep={least}/{n}"
        )


def _plain(kept: Tensor, n: int) -> Merged:
    weight = one_hot(kept, n) if n else torch.zeros(0, 0, device=kept.device)
    return Merged(kept, weight, torch.arange(len(kept), device=kept.device))
