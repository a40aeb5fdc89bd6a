"""`vispruner`: part of the budget to CLS attention, part to patches that no other resembles.

Paper: "Beyond Text-Visual Attention: Exploiting Visual Cues for Effective Token Pruning in VLMs", arXiv 2412.01818,
ICCV 2025, section 3. Source: github.com/Theia-4869/VisPruner, `encode_images`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from groundprune.errors import GroundPruneError
from groundprune.pruners.base import Pruner, Rule
from groundprune.pruners.captured import chosen
from groundprune.pruners.ranking import ranked, rows_of, unit
from groundprune.pruners.registry import register
from groundprune.signals import CLS_ATTENTION, TOWER_HIDDEN, Signals
from groundprune.tokens.layout import VisualLayout
from groundprune.tokens.selection import Stage


@register
@dataclass(frozen=True)
class VisPruner(Pruner):
    """Needs a tower with a CLS token.

    Args:
        important: Share of the budget that goes to CLS attention, 0 to 1.
    """

    important: float = 0.5
    name = "vispruner"
    paper, year, scores_by = "2412.01818", 2024, "CLS attention, then feature diversity"
    needs = frozenset({CLS_ATTENTION, TOWER_HIDDEN})

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.important <= 1:
            raise GroundPruneError(f"important must be from 0 to 1 (got {self.important!r})")

    def score(self, signals: Signals, layout: VisualLayout, stage: Stage) -> Tensor:
        return signals.tower_attention(kind="cls").mean(0)

    def rule(self, signals: Signals, layout: VisualLayout, stage: Stage) -> Rule:
        attention, features = self.score(signals, layout, stage), signals.tower_hidden()

        def rule(pool: Tensor, count: int) -> Tensor:
            return select_vispruner(attention[pool], features[pool], count, int(count * self.important))

        return rule


@torch.no_grad()
def select_vispruner(attention: Tensor, features: Tensor, count: int, important: int, per_round: int = 8) -> Tensor:
    """attention: Float[..., N]; features: Float[..., N, C] -> Long[..., count], ascending.

    `important` tokens by attention. Of the rest, in rounds: every second token is compared with the others, and the
    `per_round` that have the nearest double go, until count - important are left. Where an odd number is left, or
    fewer than 2 * per_round, the official code fails; here such a round removes as many as it can.
    """
    *batch, n = attention.shape
    order, features = ranked(attention).reshape(-1, n), unit(features).reshape(-1, *features.shape[-2:])
    kept, rest, distinct = order[:, :important], order[:, important:], count - important
    features = rows_of(features, rest)
    state = [features @ features.mT] if distinct else [rest]
    picks = chosen(_Rounds(per_round), state, distinct, block=max(1, distinct))
    return torch.cat([kept, rest.gather(-1, picks)], -1).sort(-1).values.reshape(*batch, count)


@dataclass(frozen=True)
class _Rounds:
    """All rounds, one after the other: the sizes of each are known before."""

    per_round: int

    def __call__(self, state: Sequence[Tensor], picks: Tensor) -> None:
        (similarity,), distinct = state, len(picks)
        rest = torch.arange(similarity.shape[-1], device=similarity.device).expand(len(similarity), -1)
        while rest.shape[-1] > distinct:
            even, odd = rest[:, 0::2], rest[:, 1::2]
            others = torch.full_like(similarity[:, 0], -torch.inf).scatter_(-1, odd, 0)
            nearest = rows_of(similarity, even).add_(others[:, None]).amax(-1)
            gone = min(self.per_round, rest.shape[-1] - distinct, even.shape[-1])
            left = even.gather(-1, nearest.sort(dim=-1, descending=True, stable=True).indices[:, gone:])
            rest = torch.cat([left, odd], -1)
        picks.copy_(rest[:, :distinct].T)
