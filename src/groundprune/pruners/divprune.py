"""`divprune`: keep the patches that are farthest from each other in feature space (max-min distance).

Paper: "DivPrune: Diversity-based Visual Token Pruning for Large Multimodal Models", arXiv 2503.02175, CVPR 2025,
section 3.2. Source: github.com/vbdi/divprune, `DivPrune`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from groundprune.pruners.base import Pruner, Rule
from groundprune.pruners.ranking import unit
from groundprune.pruners.registry import register
from groundprune.signals import Signals
from groundprune.tokens.layout import VisualLayout
from groundprune.tokens.selection import Stage


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


def select_divprune(features: Tensor, count: int) -> Tensor:
    """Float[..., N, D] -> Long[..., count] in the order of selection: each is the farthest from all before it.

    Distance is 1 - cosine. The first is the token whose nearest other token is farthest. A chosen token is never
    chosen again: in the official code its distance of about 0 may win where all that is left are copies.
    """
    features = unit(features)
    distance = 1 - features @ features.transpose(-1, -2)
    others = torch.eye(distance.shape[-1], device=distance.device).bool()
    nearest = distance.masked_fill(others, torch.inf).amin(-1)
    chosen = [nearest.argmax(-1, keepdim=True)]
    nearest = torch.full_like(nearest, torch.inf)
    for _ in range(count - 1):
        last = chosen[-1][..., None].expand(*nearest.shape[:-1], 1, nearest.shape[-1])
        nearest = torch.minimum(nearest, distance.gather(-2, last).squeeze(-2)).scatter(-1, chosen[-1], -torch.inf)
        chosen.append(nearest.argmax(-1, keepdim=True))
    return torch.cat(chosen, -1)
