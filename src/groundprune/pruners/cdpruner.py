"""`cdpruner`: keep patches that differ from each other, weighted by their relevance to the text (conditional DPP).

Paper: "Beyond Attention or Similarity: Maximizing Conditional Diversity for Token Pruning in MLLMs",
arXiv 2506.10967, NeurIPS 2025, section 3. Source: github.com/Theia-4869/CDPruner, `encode_images`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from groundprune.errors import GroundPruneError
from groundprune.pruners.base import Pruner, Rule
from groundprune.pruners.captured import chosen, first_rows, rows_at
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


@torch.no_grad()
def select_cdpruner(features: Tensor, score: Tensor, count: int) -> Tensor:
    """Float[..., N, D], Float[..., N] -> Long[..., count], ascending: the greedy MAP of the DPP diag(s) S diag(s).

    S is the cosine of the features. Once their rank is used up (the official code takes roots of what rounding left
    there) the rest goes by score.
    """
    *batch, n, _ = features.shape
    features, score = unit(features), checked(score)
    kernel = (features @ features.mT).mul_(score[..., :, None]).mul_(score[..., None, :]).reshape(-1, n, n)
    gain = kernel.diagonal(dim1=-2, dim2=-1).clone()
    least = 1e-6 * gain.amax(-1, keepdim=True)
    by_score = (score - score.amax(-1, keepdim=True) - 1).reshape(-1, n)  # below every gain
    state = [gain, least, by_score, torch.empty_like(gain), kernel, first_rows(gain)]
    return chosen(_greedy_map, state, count).sort(-1).values.reshape(*batch, count)


def _greedy_map(state: Sequence[Tensor], picks: Tensor) -> None:
    """A Cholesky decomposition, pivot by pivot; what a block found leaves the kernel in one product."""
    gain, least, by_score, value, kernel, starts = state
    basis = gain.new_empty(len(gain), len(picks), gain.shape[-1])
    rows = kernel.flatten(0, 1)
    for step, pick in enumerate(picks.unbind()):
        torch.where(gain > least, gain, by_score, out=value)
        torch.argmax(value, 1, out=pick)
        index, past = pick[:, None], basis[:, :step]
        at_pick = past.gather(2, index[..., None].expand(-1, step, 1)).mT
        row = torch.baddbmm(rows.index_select(0, rows_at(pick, starts))[:, None], at_pick, past, alpha=-1)
        own = gain.gather(1, index)
        update = row.squeeze(1).mul_((own > least) / own.clamp_(min=1e-30).sqrt_())
        basis[:, step] = update
        gain.addcmul_(update, update, value=-1).scatter_(1, index, -torch.inf)
        by_score.scatter_(1, index, -torch.inf)
    kernel.baddbmm_(basis.mT, basis, alpha=-1)
