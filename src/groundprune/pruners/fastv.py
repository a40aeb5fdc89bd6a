"""`fastv`: after layer 2 of the LLM, keep the tokens that the prompt's last token attends to most.

Paper: "An Image is Worth 1/2 Tokens After Layer 2: Plug-and-Play Inference Acceleration for Large Vision-Language
Models", arXiv 2403.06764, ECCV 2024, section 4. Source: github.com/pkunlp-icler/FastV, `LlamaModel.forward`.
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
class FastV(BetweenLayers):
    """One stage; scores are of the layer before.

    Args:
        layer: The first one that sees fewer tokens; None = as deep as layer 2 of 32.
    """

    layer: int | None = None
    name = "fastv"
    official_positions = "preserved"
    paper, year, scores_by = "2403.06764", 2024, "last token's attention"
    needs = frozenset({Need("llm", kind="attention")})

    def layers(self, n_layers: int) -> list[int]:
        return scaled([2], n_layers) if self.layer is None else [self.layer]

    def curve(self, x: float) -> Sequence[float]:
        return [x]

    def score(self, signals: Signals, layout: VisualLayout, stage: Stage) -> Tensor:
        assert stage.layer is not None
        return last_row(signals, stage.layer - 1).mean(0)


def select_fastv(attention: Tensor, count: int) -> Tensor:
    """attention: Float[..., H, N], the last token's row -> Long[..., count], ascending: by the mean of heads."""
    return top(attention.float().mean(-2), count)
