"""`sparsevlm`: at three layers, keep the tokens that the text's visual words attend to; the others are recycled.

Paper: "SparseVLM: Visual Token Sparsification for Efficient Vision-Language Model Inference", arXiv 2410.04417,
ICML 2025, section 3. Source: github.com/Gumpest/SparseVLMs, `modelling_sparse_llama.py`, `score.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from groundprune.errors import GroundPruneError
from groundprune.layout import VisualLayout
from groundprune.pruners.base import Stage
from groundprune.pruners.inside import InsideLLM, scaled, text_after
from groundprune.pruners.ranking import Merged
from groundprune.pruners.registry import register
from groundprune.pruners.sparsevlm_rule import raters, rope_kernel, select_sparsevlm, strongest_heads
from groundprune.pruners.tiles import Rule
from groundprune.signals import Need, Signals

# Tokens of 576 that the three stages leave, by the budget that the official code names.
COUNTS = {
    "1.5": {192: (300, 200, 110), 128: (303, 110, 36), 96: (238, 48, 26), 64: (66, 30, 17)},
    "2.0": {192: (300, 200, 118), 128: (238, 108, 60), 96: (246, 54, 28), 64: (66, 34, 20)},
}


@register
@dataclass(frozen=True)
class SparseVLM(InsideLLM):
    """Stages act on the output of layers 2, 6 and 15 of 32, and between the official budgets in proportion.

    version: "1.5" (the default of the official code) makes a few clusters of what it drops, emits them last and
    renumbers; "2.0" makes none, keeps position ids, divides attention by what the rotary embedding alone would give
    and takes the 14 heads that see most of the image. A cluster takes the slot and id of its centre. Version 1's
    count, linear in a matrix rank, is `rank_count`. theta and rope_dim: of the LLM's rotary embedding.
    """

    version: str = "1.5"
    theta: float = 10_000.0
    rope_dim: int = 128
    name = "sparsevlm"
    official_positions = "reassigned-in-order"
    paper, year, scores_by, merges = "2410.04417", 2024, "visual words' attention", True
    needs = frozenset({Need("llm", kind="attention"), Need("llm", kind="hidden"), Need("llm", 0, "hidden")})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.version not in COUNTS:
            raise GroundPruneError(f"version must be one of {', '.join(COUNTS)} (got {self.version!r})")
        if self.version == "2.0":
            object.__setattr__(self, "official_positions", "preserved")

    def layers(self, n_layers: int) -> list[int]:
        return scaled([3, 7, 16], n_layers)

    def shares(self, x: float) -> Sequence[float]:
        table = [
            (0.0, 0.0, 0.0),
            *([n / 576 for n in row] for _, row in sorted(COUNTS[self.version].items())),
            (1, 1, 1),
        ]
        low, high = list(pairwise(table))[min(int(x * 5), 4)]
        part = 5 * x - min(int(x * 5), 4)
        return [a + part * (b - a) for a, b in zip(low, high, strict=True)]

    def rule(self, signals: Signals, layout: VisualLayout, stage: Stage) -> Rule:
        assert stage.layer is not None
        after = torch.tensor(list(text_after(signals, layout)), device=layout.column.device)
        words = raters(signals.llm(0, "hidden", rows=after.tolist()), signals.projected)
        rows = after[words]
        attention = signals.llm(stage.layer - 1, "attention", rows=rows.tolist())
        if self.version == "2.0":
            attention = attention / rope_kernel(rows[:, None] - layout.column, self.rope_dim, self.theta)
            attention = attention[strongest_heads(attention, 14)]
        score, states = attention.mean(0).mean(0), signals.llm(stage.layer, "hidden")

        def rule(group: Tensor, share: int) -> Tensor | Merged:
            return select_sparsevlm(score[group], states[group], share, recycle=self.version == "1.5")

        return rule
