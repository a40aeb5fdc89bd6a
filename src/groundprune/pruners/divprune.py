"""`divprune`: keep the patches that are farthest from each other in feature space (max-min distance).

Paper: "DivPrune: Diversity-based Visual Token Pruning for Large Multimodal Models", arXiv 2503.02175, CVPR 2025,
section 3.2. Source: github.com/vbdi/divprune, `DivPrune`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from groundprune.pruners.base import Pruner, Rule
from groundprune.pruners.captured import farthest
from groundprune.pruners.ranking import rows_of, unit
from groundprune.pruners.registry import register
from groundprune.signals import Signals
from groundprune.tokens.layout import VisualLayout
from groundprune.tokens.selection import Stage

ROUNDING = 1e-6  # of a distance: less than this does not tell two apart, here and there are summed in another order


@register
@dataclass(frozen=True)
class DivPrune(Pruner):
    """Scores by the projected features alone. All tiles of an image are one pool, as in the official code."""

    name = "divprune"
    pool = "image"
    paper, year, scores_by = "2503.02175", 2025, "feature diversity (max-min)"

    def rule(self, signals: Signals, layout: VisualLayout, stage: Stage) -> Rule:
        features = signals.projected
        return lambda pool, count: select_divprune(features[pool], count).sort(-1).values


@torch.no_grad()
def select_divprune(features: Tensor, count: int) -> Tensor:
    """Float[..., N, D] -> Long[..., count] in the order of selection: each is the farthest from all before it.

    Distance is 1 - cosine. The first is the token whose nearest other token is farthest; of two that are each other's
    nearest, and so tie, the earlier one. A chosen token is never chosen again: in the official code its distance of
    about 0 may win where all that is left are copies.
    """
    *batch, n, _ = features.shape
    features = unit(features)
    distance = (features @ features.mT).neg_().add_(1).reshape(-1, n, n)
    itself = distance.diagonal(dim1=-2, dim2=-1)
    itself.fill_(torch.inf)
    nearest = distance.amin(-1)
    first = (nearest >= nearest.amax(-1, keepdim=True) - ROUNDING).int().argmax(-1)
    itself.fill_(-torch.inf)
    others = farthest(rows_of(distance, first[:, None]).squeeze(1), distance, count - 1)
    return torch.cat([first[:, None], others], -1).reshape(*batch, count)
