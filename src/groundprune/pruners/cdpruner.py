"""`cdpruner`: keep patches that differ from each other, weighted by their relevance to the text (conditional DPP).

Paper: "Beyond Attention or Similarity: Maximizing Conditional Diversity for Token Pruning in MLLMs",
arXiv 2506.10967, NeurIPS 2025, section 3. Source: github.com/Theia-4869/CDPruner, `encode_images`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from groundprune.errors import GroundPruneError
from groundprune.pruners.base import Pruner, Rule
from groundprune.pruners.ranking import checked, unit
from groundprune.pruners.registry import register
from groundprune.signals import CLIP_PATCHES, CLIP_TEXT, Signals
from groundprune.tokens.layout import VisualLayout
from groundprune.tokens.selection import Stage


@register
@dataclass(frozen=True)
class CDPruner(Pruner):
    """Needs the prompt's text and a CLIP text tower; of a text beyond 77 tokens each 77 count alike.

    Args:
        sign: -1 (the official code): the LESS similar a patch is to the text, the more relevant; 1 as the paper says.
    """

    sign: int = -1
    name = "cdpruner"
    paper, year, scores_by = "2506.10967", 2025, "text similarity x feature diversity (DPP)"
    needs = frozenset({CLIP_PATCHES, CLIP_TEXT})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sign not in (1, -1):
            raise GroundPruneError(f"sign must be 1 or -1 (got {self.sign!r})")

    def rule(self, signals: Signals, layout: VisualLayout, stage: Stage) -> Rule:
        features, patches = signals.projected, layout.patches
        score = torch.zeros(len(layout), device=features.device)
        # The range of relevance is that of all tiles together.
        score[patches] = relevance(signals.clip_patches[patches], signals.clip_segments, self.sign)
        return lambda pool, count: select_cdpruner(features[pool], score[pool], count)


def relevance(patches: Tensor, text: Tensor, sign: int = -1) -> Tensor:
    """Float[..., N, E], Float[M, E] -> Float[..., N] in about 0..1: sign x cosine, mean over the M text segments.

    Where all are equal the official code divides by zero; here all are 1.
    """
    score = sign * (unit(patches) @ unit(text).transpose(-1, -2)).mean(-1)
    low, high = score.aminmax(dim=-1, keepdim=True)
    return torch.where(high > low, (score - low + 1e-6) / (high - low).clamp(min=1e-12), 1.0)


def select_cdpruner(features: Tensor, score: Tensor, count: int) -> Tensor:
    """Float[..., N, D], Float[..., N] -> Long[..., count], ascending: the greedy MAP of the DPP diag(s) S diag(s).

    S is the cosine of the features. Once their rank is used up (the official code takes roots of what rounding left
    there) the rest goes by score.
    """
    features, score = unit(features), checked(score)
    kernel = score[..., :, None] * (features @ features.transpose(-1, -2)) * score[..., None, :]
    gain = kernel.diagonal(dim1=-2, dim2=-1).clone()
    least = 1e-6 * gain.amax(-1, keepdim=True)
    by_score = score - score.amax(-1, keepdim=True) - 1  # below every gain
    chosen: list[Tensor] = []
    basis = score.new_zeros(*score.shape[:-1], count, score.shape[-1])
    taken = torch.zeros_like(score, dtype=torch.bool)
    for step in range(count):
        live = gain > least
        pick = torch.where(live, gain, by_score).masked_fill(taken, -torch.inf).argmax(-1, keepdim=True)
        row = kernel.gather(-2, pick[..., None].expand(*pick.shape[:-1], 1, score.shape[-1])).squeeze(-2)
        past = basis[..., :step, :]
        at_pick = past.gather(-1, pick[..., None, :].expand(*past.shape[:-1], 1))
        root = gain.gather(-1, pick).clamp(min=1e-30).sqrt()
        update = (row - (at_pick * past).sum(-2)) / root * live.gather(-1, pick)
        basis[..., step, :] = update
        gain = gain - update.square()
        taken = taken.scatter(-1, pick, True)
        chosen.append(pick)
    return torch.cat(chosen, -1).sort(-1).values
