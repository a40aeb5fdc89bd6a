"""`cls-visual`: keep the patches that the vision tower's CLS token attends to most.

GAP (arXiv 2506.21873) names "CLS-visual similarity" without a formula. This is the reading that public code shares
(FasterVLM, arXiv 2412.01818v1): the CLS row of the attention of the layer that feeds the LLM, mean over heads.
A tower without a CLS token (SigLIP, Qwen-VL, Pixtral) is scored by the attention that each patch receives on average.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from groundprune.pruners.base import Pruner
from groundprune.pruners.registry import register
from groundprune.signals import SALIENT, Signals
from groundprune.tokens.layout import VisualLayout
from groundprune.tokens.selection import Stage


@register
@dataclass(frozen=True)
class ClsVisual(Pruner):
    """Served by every tower."""

    name = "cls-visual"
    paper, year, scores_by = "2506.21873", 2025, "CLS attention"
    needs = frozenset({SALIENT})

    def score(self, signals: Signals, layout: VisualLayout, stage: Stage) -> Tensor:
        return signals.tower_attention(kind="salient").mean(0)
