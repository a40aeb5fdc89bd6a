"""`nuwa`: the strongest patches of every 2 x 2 cell by CLS attention, each with what resembles it nearby.

Paper: "Nüwa: Mending the Spatial Integrity Torn by VLM Token Pruning", arXiv 2602.02951, ICLR 2026, section 3.
Source: github.com/Man-PaperRejected/Nuwa, `prune_vision_tokens`.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from groundprune.pruners.base import Pruner, Rule
from groundprune.pruners.between_layers import last_row, staged
from groundprune.pruners.fastv import select_fastv
from groundprune.pruners.merging import Merged, merged, one_hot
from groundprune.pruners.ranking import checked, ranked, rows_of, top_by_tier, unit
from groundprune.pruners.registry import register
from groundprune.signals import CLS_ATTENTION, PROJECTOR, TOWER_HIDDEN, Need, Signals
from groundprune.tokens.layout import VisualLayout
from groundprune.tokens.selection import Stage

_DEEP = [Fraction(layer, 24) for layer in range(16, 25)]


@register
@dataclass(frozen=True)
class Nuwa(Pruner):
    """Needs a tower with a CLS token.

    Args:
        second: False, the first stage alone: `keep` is what enters the LLM. True, as in the official code: `keep` is
            the average over the LLM's layers, and in the middle of it the last token's attention leaves a seventh (a
            budget of 128 is 224, then 32); above an average of 4/7 all enter and the second stage leaves more.
    """

    second: bool = False
    name = "nuwa"
    merges_in = "tower"
    official_positions = "preserved"
    paper, year, scores_by = "2602.02951", 2026, "CLS attention per 2 x 2 cell"
    needs = frozenset({CLS_ATTENTION, TOWER_HIDDEN, PROJECTOR, *(Need("tower_hidden", layer) for layer in _DEEP)})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.second:
            object.__setattr__(self, "needs", self.needs | {Need("llm", kind="attention")})

    def stages(self, n_layers: int) -> list[Stage]:
        if not self.second:
            return super().stages(n_layers)
        first, second = staged(self.name, self.budget, _curve, [0, n_layers // 2], n_layers)
        return [Stage(None, first), Stage(n_layers // 2, second)]

    def pools(self, layout: VisualLayout, stage: Stage) -> list[Tensor]:
        return layout.groups("tile" if stage.layer is None else "image")

    def rule(self, signals: Signals, layout: VisualLayout, stage: Stage) -> Rule:
        if stage.layer is not None:
            late = last_row(signals, stage.layer - 1)
            return lambda pool, count: select_fastv(late[:, pool], count)
        attention = signals.tower_attention(kind="cls").sum(0)
        states = sum((signals.tower_hidden(layer) for layer in _DEEP[1:]), signals.tower_hidden(_DEEP[0])) / len(
            _DEEP
        )

        def rule(pool: Tensor, count: int) -> Merged:
            row, col, n = layout.row[pool], layout.col[pool], len(pool)
            kept = select_nuwa(attention[pool], row, col, count, -(-4 * count // n))
            weight = nuwa_weights(attention[pool], states[pool], kept, row, col, n * 280 / 576)
            return merged(kept, weight)

        return rule


def _curve(x: float) -> list[float]:
    return [min(1.0, 2 * x), min(1.0, 2 * x) / 7 + max(0.0, 2 * x - 1) * 6 / 7]


def select_nuwa(attention: Tensor, row: Tensor, col: Tensor, count: int, per_cell: int) -> Tensor:
    """attention: Float[..., N]; row, col: Long[N] -> Long[..., count], ascending.

    The largest among the `per_cell` largest of each 2 x 2 cell; where those are too few, others follow.
    """
    cell = (row // 2) * len(col) + col // 2
    order = ranked(attention)
    by_cell = cell[order].sort(dim=-1, stable=True)
    place = torch.arange(cell.shape[0], device=cell.device).expand(order.shape)
    starts = torch.ones_like(by_cell.values, dtype=torch.bool)
    starts[..., 1:] = by_cell.values[..., 1:] != by_cell.values[..., :-1]
    rank = place - torch.where(starts, place, 0).cummax(-1).values
    rank = torch.zeros_like(rank).scatter(-1, order.gather(-1, by_cell.indices), rank)
    return top_by_tier((rank < per_cell).int(), attention, count)


def nuwa_weights(
    attention: Tensor, states: Tensor, kept: Tensor, row: Tensor, col: Tensor, reach: float, strongest: float = 0.55
) -> Tensor:
    """Float[..., K, N]: how each kept patch mixes all patches.

    states: Float[..., N, C], whose positive cosine, falling to 0 at the distance sqrt(reach) in patches, is a patch's
    part. A patch itself counts 1, and nothing is added to those at or above the quantile `strongest` of the attention
    of the kept ones.
    """
    states, n = unit(states), states.shape[-2]
    place = torch.stack([row, col], -1).float()
    similar = (rows_of(states, kept) @ states.transpose(-1, -2)).relu()
    away = torch.cdist(place[kept], place, compute_mode="donot_use_mm_for_euclid_dist") / reach**0.5
    weight = similar * (1 - away.clamp(max=1))
    weight = weight / (weight.sum(-1, keepdim=True) + 1e-8)
    score = checked(attention).gather(-1, kept)
    strong = score >= torch.quantile(score, strongest, dim=-1, keepdim=True)
    itself = one_hot(kept, n)
    return torch.where(itself.bool(), 1.0, weight.masked_fill(strong[..., None], 0))
