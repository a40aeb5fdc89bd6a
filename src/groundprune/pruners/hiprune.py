"""`hiprune`: anchors from a middle layer of the vision tower with their neighbours, the rest from its deep layer.

Paper: "HiPrune: Training-Free Visual Token Pruning via Hierarchical Attention in VLMs", arXiv 2508.00553, section 4.
Source: github.com/Danielement321/HiPrune, `encode_images`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import torch
from torch import Tensor

from groundprune.errors import GroundPruneError
from groundprune.pruners.base import Pruner, Rule
from groundprune.pruners.ranking import mask_of, ranked, top_by_tier
from groundprune.pruners.registry import register
from groundprune.signals import Need, Signals
from groundprune.tokens.layout import VisualLayout
from groundprune.tokens.selection import Stage

_MIDDLE = Need("tower_attention", Fraction(9, 24), "received")
_DEEP = Need("tower_attention", kind="received")


@register
@dataclass(frozen=True)
class HiPrune(Pruner):
    """Scores by the attention that patches receive: no CLS token is needed.

    The middle layer is the ninth of 24, and lies as deep in other towers; of those that attend within windows it is
    the nearest that attends to all (of Qwen2.5-VL's 32 the 16th). Position ids: its LLaVA code renumbers, its
    Qwen2.5-VL code keeps them.

    Args:
        alpha: Share of the budget that anchors and their four neighbours take, 0 to 1.
    """

    alpha: float = 0.1
    name = "hiprune"
    official_by_model: ClassVar[Mapping[str, str]] = {"qwen2_5_vl": "preserved"}
    paper, year, scores_by = "2508.00553", 2025, "attention received in two tower layers"
    needs = frozenset({_MIDDLE, _DEEP})

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.alpha <= 1:
            raise GroundPruneError(f"alpha must be from 0 to 1 (got {self.alpha!r})")

    def rule(self, signals: Signals, layout: VisualLayout, stage: Stage) -> Rule:
        middle = signals.tower_attention(_MIDDLE.layer, "received").mean(0)
        deep = signals.tower_attention(kind="received").mean(0)

        def rule(pool: Tensor, count: int) -> Tensor:
            cols = layout.col[pool].max() + 1  # a tensor: its value is not asked for
            return select_hiprune(middle[pool], deep[pool], cols, count, round(count * self.alpha / 5))

        return rule


def select_hiprune(middle: Tensor, deep: Tensor, cols: int | Tensor, count: int, anchors: int) -> Tensor:
    """Float[..., N] each -> Long[..., count], ascending: anchors by `middle`, their neighbours, the rest by `deep`.

    Neighbours are 1 and `cols` away in the raster, cut to its ends, so that one at an edge may lie on the next row,
    as in the official code. Where anchors and neighbours exceed the count that code fails; here neighbours go by
    `deep` too.
    """
    n = middle.shape[-1]
    best = ranked(middle, anchors)
    near = torch.cat([best - 1, best + 1, best - cols, best + cols], -1).clamp(0, n - 1)
    tier = torch.maximum(2 * mask_of(best, n).int(), mask_of(near, n).int())
    return top_by_tier(tier, deep, count)
