"""Ranking in batched torch: what the rules are built from.

Leading dimensions are a batch; each row is ranked by itself. Ties go to the earlier token, on every device.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from groundprune.errors import GroundPruneError
from groundprune.pruners.settling import refuse_if


def checked(values: Tensor, what: str = "score") -> Tensor:
    """The values in fp32. Raises GroundPruneError where one is NaN."""
    values = values.float()
    count = values.isnan().sum()
    refuse_if(
        count > 0,
        lambda: GroundPruneError(f"the pruner's {what} holds NaN ({int(count)} of {values.numel()} values)"),
    )
    return values


def ranked(score: Tensor, count: int | None = None) -> Tensor:
    """Float[..., n] -> Long[..., count]: the largest, best first (all of them where count is None)."""
    return checked(score).sort(dim=-1, descending=True, stable=True).indices[..., :count]


def top(score: Tensor, count: int) -> Tensor:
    """Float[..., n] -> Long[..., count]: the largest, ascending."""
    return ranked(score, count).sort(dim=-1).values


def top_by_tier(tier: Tensor, score: Tensor, count: int) -> Tensor:
    """Long[..., count], ascending: the highest tiers first, the largest scores within a tier."""
    order = ranked(score)
    tiers = tier.expand(score.shape).gather(-1, order)
    best = tiers.sort(dim=-1, descending=True, stable=True).indices[..., :count]
    return order.gather(-1, best).sort(dim=-1).values


def mask_of(chosen: Tensor, n: int) -> Tensor:
    """Long[..., k] -> Bool[..., n]."""
    return torch.zeros(*chosen.shape[:-1], n, dtype=torch.bool, device=chosen.device).scatter(-1, chosen, True)


def others(chosen: Tensor, n: int) -> Tensor:
    """Long[..., k], distinct -> Long[..., n - k], ascending: the rest of the n tokens."""
    mask = mask_of(chosen, n)
    return mask.sort(dim=-1, stable=True).indices[..., : n - chosen.shape[-1]]


def rows_of(values: Tensor, chosen: Tensor) -> Tensor:
    """Float[..., n, C], Long[..., k] -> Float[..., k, C]."""
    *batch, n, _ = values.shape
    starts = torch.arange(0, math.prod(batch) * n, n, device=chosen.device).reshape(*batch, 1) if batch else 0
    return values.flatten(0, -2).index_select(0, (chosen + starts).flatten()).unflatten(0, chosen.shape)


def unit(values: Tensor) -> Tensor:
    """Rows of length 1, in fp32."""
    return torch.nn.functional.normalize(checked(values, "features"), dim=-1)
