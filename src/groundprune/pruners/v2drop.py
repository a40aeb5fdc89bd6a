"""`v2drop`: keep the tokens whose states change most from one layer of the LLM to the next.

Paper: "Variation-aware Vision Token Dropping for Faster Large Vision-Language Models", arXiv 2509.01552, CVPR 2026,
section 3. Source: github.com/xuyang-liu16/V2Drop, `V2DropLlamaModel.forward`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from groundprune.pruners.between_layers import BetweenLayers, scaled
from groundprune.pruners.ranking import checked, top
from groundprune.pruners.registry import register
from groundprune.signals import Need, Signals
from groundprune.tokens.layout import VisualLayout
from groundprune.tokens.selection import Stage


@register
@dataclass(frozen=True)
class V2Drop(BetweenLayers):
    """Needs no attention. Two stages that leave the same share, then one that leaves a single token.

    With half each (an average of 0.352) those are the official ratios for LLaVA. Above an average of 22/32 the first
    two drop nothing and the last one leaves more.
    """

    name = "v2drop"
    official_positions = "preserved"
    paper, year, scores_by = "2509.01552", 2025, "change between layers"
    needs = frozenset({Need("llm", kind="hidden")})

    def layers(self, n_layers: int) -> list[int]:
        return scaled([3, 17, 22], n_layers)

    def curve(self, x: float) -> Sequence[float]:
        share = min(1.0, 2 * x)
        return [share, share**2, max(0.0, 2 * x - 1)]

    def score(self, signals: Signals, layout: VisualLayout, stage: Stage) -> Tensor:
        assert stage.layer is not None
        before, now = (signals.llm(layer, "hidden") for layer in (stage.layer - 1, stage.layer))
        return _change(before, now)


def select_v2drop(before: Tensor, now: Tensor, count: int) -> Tensor:
    """Float[..., N, D], what enters the layer before and this one -> Long[..., count], ascending: by L2 distance."""
    return top(_change(before, now), count)


def _change(before: Tensor, now: Tensor) -> Tensor:
    return (checked(now, "features") - checked(before, "features")).norm(dim=-1)
