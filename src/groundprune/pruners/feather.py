"""`feather`: early, an even grid and what attention without the rotary embedding picks; later, attention alone.

Paper: "Feather the Throttle: Revisiting Visual Token Pruning for Vision-Language Model Acceleration",
arXiv 2412.13180, ICCV 2025, section 5. Source: github.com/markendo/FEATHER, `FastVLlamaModel.forward`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from groundprune.errors import GroundPruneError
from groundprune.pruners.base import Rule
from groundprune.pruners.between_layers import BetweenLayers, scaled
from groundprune.pruners.ranking import top_by_tier
from groundprune.pruners.registry import register
from groundprune.signals import Need, Signals
from groundprune.tokens.layout import VisualLayout
from groundprune.tokens.selection import Stage


@register
@dataclass(frozen=True)
class Feather(BetweenLayers):
    """Two stages, at layers 8 and 16 of 32. Where the first leaves a share r beside its grid, the second leaves r^2.

    The second stage does not protect the grid, as the official code.

    Args:
        stride: Of the grid, in rows and columns, at least 1.
    """

    stride: int = 3
    name = "feather"
    official_positions = "preserved"
    paper, year, scores_by = "2412.13180", 2024, "last token's attention without RoPE, grid"
    needs = frozenset({Need("llm", kind="q"), Need("llm", kind="k")})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stride < 1:
            raise GroundPruneError(f"stride must be at least 1 (got {self.stride!r})")

    def layers(self, n_layers: int) -> list[int]:
        return scaled([8, 16], n_layers)

    def curve(self, x: float) -> Sequence[float]:
        first = x + (1 - x) / self.stride**2
        return [first, first * x**2]

    def score(self, signals: Signals, layout: VisualLayout, stage: Stage) -> Tensor:
        assert stage.layer is not None
        query = signals.llm(stage.layer - 1, "q", rows=[layout.length - 1], rope=False)
        key = signals.llm(stage.layer - 1, "k", rope=False)
        score = torch.zeros(len(layout), device=key.device)
        for image in layout.groups("image"):
            score[image] = content_attention(query, key[:, image]).mean(-2)
        return score

    def rule(self, signals: Signals, layout: VisualLayout, stage: Stage) -> Rule:
        score = self.score(signals, layout, stage)
        grid = (layout.row % self.stride == 0) & (layout.col % self.stride == 0)
        if stage.number > 0:
            grid = torch.zeros_like(grid)

        def rule(pool: Tensor, count: int) -> Tensor:
            return select_feather(score[None, pool], grid[pool], count)

        return rule


def content_attention(query: Tensor, key: Tensor) -> Tensor:
    """[..., H, 1, C], [..., H', N, C], both before the rotary embedding -> [..., H, N], softmax over the N alone."""
    key = key.repeat_interleave(query.shape[-3] // key.shape[-3], dim=-3)
    return (query.float() @ key.float().transpose(-1, -2) * query.shape[-1] ** -0.5).softmax(-1).squeeze(-2)


def select_feather(attention: Tensor, grid: Tensor, count: int) -> Tensor:
    """attention: Float[..., H, N]; grid: Bool[N] -> Long[..., count], ascending: the grid, then the largest means."""
    score = attention.float().mean(-2)
    return top_by_tier(grid.int(), score, count)
