"""`pyramiddrop`: at a quarter, half and three quarters of the LLM's depth, drop the same share each time.

Paper: "PyramidDrop: Accelerating Your Large Vision-Language Models via Pyramid Visual Redundancy Reduction",
arXiv 2410.17247, CVPR 2025, section 3. Source: github.com/Cooperx521/PyramidDrop, `pdrop_rank_drop`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from groundprune.pruners.between_layers import BetweenLayers, last_row, scaled
from groundprune.pruners.ranking import top
from groundprune.pruners.registry import register
from groundprune.signals import Need, Signals
from groundprune.tokens.layout import VisualLayout
from groundprune.tokens.selection import Stage


@register
@dataclass(frozen=True)
class PyramidDrop(BetweenLayers):
    """Scores by the layer's OWN attention on what enters it. keep=15/32 gives the paper's 1/2, 1/4, 1/8.

    The official code renumbers all that is left at each stage, so a token's id differs between shallow and deep
    layers.
    """

    name = "pyramiddrop"
    paper, year, scores_by = "2410.17247", 2024, "last token's attention"
    needs = frozenset({Need("llm", kind="attention")})

    def layers(self, n_layers: int) -> list[int]:
        return scaled([8, 16, 24], n_layers)

    def curve(self, x: float) -> Sequence[float]:
        return [x, x**2, x**3]

    def score(self, signals: Signals, layout: VisualLayout, stage: Stage) -> Tensor:
        assert stage.layer is not None
        return last_row(signals, stage.layer).mean(0)


def select_pyramiddrop(attention: Tensor, count: int) -> Tensor:
    """attention: Float[..., H, N], the last token's row -> Long[..., count], ascending: by the mean of heads."""
    return top(attention.float().mean(-2), count)
