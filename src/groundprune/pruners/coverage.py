"""`coverage`: part of the budget to what the image holds, the rest to the largest gaps between what is kept.

This project's own: attention alone leaves parts of the image empty, and a box needs evidence of its borders.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from groundprune.errors import GroundPruneError
from groundprune.pruners.base import Pruner, Rule
from groundprune.pruners.captured import farthest
from groundprune.pruners.ranking import ranked, rows_of
from groundprune.pruners.registry import register
from groundprune.signals import CLIP_PATCHES, CLIP_TEXT, SALIENT, Signals, cosine
from groundprune.tokens.layout import VisualLayout
from groundprune.tokens.selection import Stage


@register
@dataclass(frozen=True)
class Coverage(Pruner):
    """Served by every tower, as `cls-visual`.

    Args:
        spread: Share of the budget that fills gaps, 0 to 1.
        text: Also rank patches by their similarity to the prompt's text, which needs a CLIP text tower.
        anchors: Keep the corners of the image, whose ids mark its extent.
    """

    spread: float = 0.3
    text: bool = False
    anchors: bool = False
    name = "coverage"
    official_positions = "preserved"
    scores_by = "CLS attention, spatial gaps"
    needs = frozenset({SALIENT})

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.spread <= 1:
            raise GroundPruneError(f"spread must be from 0 to 1 (got {self.spread!r})")
        if self.text:
            object.__setattr__(self, "needs", self.needs | {CLIP_PATCHES, CLIP_TEXT})

    def rule(self, signals: Signals, layout: VisualLayout, stage: Stage) -> Rule:
        attention = signals.tower_attention(kind="salient").mean(0)
        similarity = cosine(signals.clip_patches, signals.clip_text).mean(1) if self.text else None

        def rule(pool: Tensor, count: int) -> Tensor:
            content = _place(attention[pool])
            if similarity is not None:
                content = content + _place(similarity[pool])
            return select_coverage(
                content, layout.row[pool], layout.col[pool], count, round(count * self.spread), self.anchors
            )

        return rule


@torch.no_grad()
def select_coverage(
    content: Tensor, row: Tensor, col: Tensor, count: int, gaps: int, anchors: bool = False
) -> Tensor:
    """content: Float[..., N]; row, col: Long[N] -> Long[..., count], ascending.

    anchors: the corners come first. Then the largest of `content`, until `gaps` tokens are left (at least one has to
    come first); each of those goes to the patch that is farthest from all kept ones, the one with more content where
    several are.
    """
    *batch, n = content.shape
    order = ranked(content).reshape(-1, n)
    rank = 1 - (1 + order.argsort(-1)) / n
    if anchors:
        corner = ((row == row.min()) | (row == row.max())) & ((col == col.min()) | (col == col.max()))
        order = order.gather(-1, corner[order].int().sort(dim=-1, descending=True, stable=True).indices)
    first = order[:, : max(1, count - gaps)]
    row, col = row.float(), col.float()
    away = (row[:, None] - row).square_() + (col[:, None] - col).square_()
    # Squared distances are whole numbers and ranks below 1: the rank decides among equals alone.
    distance = away + rank[:, None]
    distance.diagonal(dim1=-2, dim2=-1).fill_(-1)
    gaps_filled = farthest(rows_of(distance, first).amin(1), distance, count - first.shape[-1])
    return torch.cat([first, gaps_filled], -1).sort(-1).values.reshape(*batch, count)


def _place(score: Tensor) -> Tensor:
    """Float[..., n] -> Float[..., n] from 0 to below 1: each token's place in the ranking, the largest highest."""
    return 1 - (1 + ranked(score).argsort(-1)) / score.shape[-1]
