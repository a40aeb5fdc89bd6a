"""`fastervlm`: keep the patches that the vision tower's CLS token attends to most, as FasterVLM does.

Paper: "[CLS] Attention is All You Need for Training-Free Visual Token Pruning", arXiv 2412.01818v1.
Source: github.com/Theia-4869/FasterVLM, `encode_images`.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from groundprune.pruners.base import Pruner
from groundprune.pruners.ranking import top
from groundprune.pruners.registry import register
from groundprune.signals import CLS_ATTENTION, Signals
from groundprune.tokens.layout import VisualLayout
from groundprune.tokens.selection import Stage


@register
@dataclass(frozen=True)
class FasterVLM(Pruner):
    """Needs a tower with a CLS token."""

    name = "fastervlm"
    paper, year, scores_by = "2412.01818v1", 2024, "CLS attention"
    needs = frozenset({CLS_ATTENTION})

    def score(self, signals: Signals, layout: VisualLayout, stage: Stage) -> Tensor:
        return signals.tower_attention(kind="cls").mean(0)


def select_fastervlm(attention: Tensor, count: int) -> Tensor:
    """attention: Float[..., H, N], the CLS row per head -> Long[..., count], ascending: the largest means."""
    return top(attention.float().mean(-2), count)
