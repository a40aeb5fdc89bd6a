"""`trim`: keep patches by their similarity to the text in CLIP's joint space, and the mean of the others.

Paper: "Less is More: A Simple yet Effective Token Reduction Method for Efficient Multi-modal LLMs",
arXiv 2409.10994, COLING 2025, section 3. Source: github.com/FreedomIntelligence/TRIM, `token_reduction`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from groundprune.errors import GroundPruneError
from groundprune.pruners.base import Pruner, Rule
from groundprune.pruners.merging import Merged, at_least, merged, one_hot
from groundprune.pruners.ranking import mask_of, ranked
from groundprune.pruners.registry import register
from groundprune.signals import CLIP_PATCHES, CLIP_TEXT, PROJECTOR, TOWER_HIDDEN, Signals
from groundprune.tokens.layout import VisualLayout
from groundprune.tokens.selection import Stage


@register
@dataclass(frozen=True)
class Trim(Pruner):
    """Needs the prompt's text and a CLIP text tower.

    The appended mean takes the slot and id of the first patch that was dropped: the most relevant of those that it
    stands for. The official code, which renumbers, puts the mean last.

    Args:
        sign: -1 (the official code) keeps the patches with the LOWEST dot product; 1 the highest, as the paper says.
    """

    sign: int = -1
    name = "trim"
    merges_in = "tower"
    official_positions = "reassigned-in-order"
    paper, year, scores_by = "2409.10994", 2024, "text similarity"
    needs = frozenset({CLIP_PATCHES, CLIP_TEXT, TOWER_HIDDEN, PROJECTOR})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sign not in (1, -1):
            raise GroundPruneError(f"sign must be 1 or -1 (got {self.sign!r})")

    def score(self, signals: Signals, layout: VisualLayout, stage: Stage) -> Tensor:
        return self.sign * (signals.clip_patches @ signals.clip_text.T).mean(1)

    def rule(self, signals: Signals, layout: VisualLayout, stage: Stage) -> Rule:
        score = self.score(signals, layout, stage)

        def rule(pool: Tensor, count: int) -> Merged:
            at_least(self.name, count, 2, len(pool), "a patch and the mean of the others")
            return select_trim(score[pool], count)

        return rule


def select_trim(score: Tensor, count: int) -> Merged:
    """Float[..., N] -> the count - 1 largest, and in the slot of the next largest the mean of all others."""
    n = score.shape[-1]
    best = ranked(score, count)
    kept, slot = best[..., :-1].sort(-1).values, best[..., -1:]
    mean = (~mask_of(kept, n)).float() / (n - count + 1)
    return merged(torch.cat([kept, slot], -1), torch.cat([one_hot(kept, n), mean[..., None, :]], -2))


def outliers(score: Tensor) -> int:
    """How many values lie above Q3 + 1.5 (Q3 - Q1): the count that TRIM's and PruMerge's code finds by itself.

    score: Float[N]. What `tokens=` would have to be, less the appended token.
    """
    low, high = torch.quantile(score.float(), torch.tensor([0.25, 0.75], device=score.device))
    return int((score > high + 1.5 * (high - low)).sum())
