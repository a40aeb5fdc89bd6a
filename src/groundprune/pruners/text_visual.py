"""`text-visual`: keep the patches that are most similar to the prompt's text in CLIP's joint space.

GAP (arXiv 2506.21873) names "text-visual similarity" without a formula. Here: cosine between
visual_projection(post_layernorm(patch)) and the text tower's embedding; TRIM's and CDPruner's code rank by the
NEGATED similarity, which `sign=-1` gives.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from groundprune.errors import GroundPruneError
from groundprune.pruners.base import Pruner
from groundprune.pruners.registry import register
from groundprune.signals import CLIP_PATCHES, CLIP_TEXT, Signals, cosine
from groundprune.tokens.layout import VisualLayout
from groundprune.tokens.selection import Stage


@register
@dataclass(frozen=True)
class TextVisual(Pruner):
    """Needs the prompt's text and a CLIP text tower.

    Args:
        sign: 1 keeps the most similar patches, -1 the least.
    """

    sign: int = 1
    name = "text-visual"
    paper, year, scores_by = "2506.21873", 2025, "text similarity"
    needs = frozenset({CLIP_PATCHES, CLIP_TEXT})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sign not in (1, -1):
            raise GroundPruneError(f"sign must be 1 or -1 (got {self.sign!r})")

    def score(self, signals: Signals, layout: VisualLayout, stage: Stage) -> Tensor:
        return self.sign * cosine(signals.clip_patches, signals.clip_text).mean(1)
