"""`sparsevlm`: at three layers, keep the tokens that the text's visual words attend to; the others are recycled.

Paper: "SparseVLM: Visual Token Sparsification for Efficient Vision-Language Model Inference", arXiv 2410.04417,
ICML 2025, section 3. Source: github.com/Gumpest/SparseVLMs, `modelling_sparse_llama.py`, `score.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from groundprune.errors import GroundPruneError
from groundprune.pruners.base import Rule
from groundprune.pruners.between_layers import BetweenLayers, Staged, scaled, text_after
from groundprune.pruners.merging import Merged, joined
from groundprune.pruners.registry import register
from groundprune.pruners.sparsevlm_rule import (
    clusters_of,
    rank_count,
    raters,
    recycled,
    rope_kernel,
    select_sparsevlm,
    strongest_heads,
)
from groundprune.signals import Need, Signals
from groundprune.tokens.layout import VisualLayout
from groundprune.tokens.selection import Selection, Stage

# Tokens of 576 that the three stages keep, clusters not counted, by the budget that the official code names.
COUNTS = {
    "1.5": {192: (300, 200, 110), 128: (303, 110, 36), 96: (238, 48, 26), 64: (66, 30, 17)},
    "2.0": {192: (300, 200, 118), 128: (238, 108, 60), 96: (246, 54, 28), 64: (66, 34, 20)},
}
RANKS = {192: (13.5, 0), 128: (9, 6), 64: (0.8, 0)}  # version 1's scale and bias of a rank, by budget
WHOLE = 576


@dataclass(frozen=True)
class Named(Staged):
    """What one stage leaves of a budget that the official code names; elsewhere as `Staged`. left: of 576."""

    left: int = 0

    def count(self, patches: int, images: int = 1) -> int:
        return self.left * images if patches == WHOLE * images else super().count(patches, images)


@register
@dataclass(frozen=True)
class SparseVLM(BetweenLayers):
    """Stages act on the output of layers 2, 6 and 15 of 32, and between the official budgets in proportion.

    A cluster takes the slot and id of its centre. A budget counts clusters, and what each layer sees. tokens=192,
    128, 96 and 64 of images of 576 tokens are the authors' own: 309, 204 and 113 tokens of 192 (of "2.0": 300, 200,
    118). Their average is that of what leaves each layer; of what each layer sees it is 206.5.

    Args:
        version: "1.5" (the default of the official code) makes a few clusters of what it drops, emits them last and
            renumbers; "2.0" makes none, keeps position ids, divides attention by what the rotary embedding alone
            would give and takes the 14 heads that see most of the image; "1.0" makes clusters too, and at a fourth
            layer (19): it keeps as many tokens as a rank of the attention says, for tokens=192, 128 or 64.
    """

    version: str = "1.5"
    name = "sparsevlm"
    merges_in = "hidden"
    official_positions = "reassigned-in-order"
    paper, year, scores_by = "2410.04417", 2024, "visual words' attention"
    needs = frozenset(
        {
            Need("llm", kind="attention"),
            Need("llm", kind="hidden"),
            Need("llm", 0, "hidden"),
            Need("llm", kind="frequencies"),
        }
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.version not in ("1.0", *COUNTS):
            raise GroundPruneError(f"version must be one of 1.0, {', '.join(COUNTS)} (got {self.version!r})")
        if self.version == "1.0" and self.budget.share != 1 and self.budget.tokens not in RANKS:
            raise GroundPruneError(
                f"version 1.0 keeps what a rank says, for tokens={', '.join(map(str, RANKS))} (got {self.budget})"
            )
        if self.version == "2.0":
            object.__setattr__(self, "official_positions", "preserved")

    def layers(self, n_layers: int) -> list[int]:
        return scaled([3, 7, 16, 20] if self.version == "1.0" else [3, 7, 16], n_layers)

    def stages(self, n_layers: int) -> list[Stage]:
        if self.version == "1.0":
            layers = self.layers(n_layers)
            return [Stage(layer, self.budget, number=i, adaptive=True) for i, layer in enumerate(layers)]
        stages = super().stages(n_layers)
        if self.budget.tokens not in COUNTS[self.version]:
            return stages
        left = self.left(self.budget.tokens)
        named = [Named(**vars(stage.budget), left=n) for stage, n in zip(stages, left, strict=True)]
        return [replace(stage, budget=budget) for stage, budget in zip(stages, named, strict=True)]

    def left(self, budget: int) -> list[int]:
        """Tokens of 576 that the stages leave of a budget that the official code names, clusters counted."""
        found, before = [], WHOLE
        for kept in COUNTS[self.version][budget]:
            before = kept + (clusters_of(before - kept)[1] if self.version == "1.5" else 0)
            found.append(before)
        return found

    def curve(self, x: float) -> Sequence[float]:
        named = [[n / WHOLE for n in self.left(budget)] for budget in sorted(COUNTS[self.version])]
        table = [[0.0] * 3, *named, [1.0] * 3]
        low, high = list(pairwise(table))[min(int(x * 5), 4)]
        part = 5 * x - min(int(x * 5), 4)
        return [a + part * (b - a) for a, b in zip(low, high, strict=True)]

    def attention(self, signals: Signals, layout: VisualLayout, layer: int) -> Tensor:
        """[H, R, N], of the words that rate; they are chosen once, from all that the LLM was given of the image."""
        words = text_after(self.label, signals, layout)
        after = torch.arange(words.start, words.stop, device=layout.column.device)
        rows = after[raters(signals.llm(0, "hidden", rows=after), signals.all_projected)]
        attention = signals.llm(layer, "attention", rows=rows)
        if self.version != "2.0":
            return attention
        attention = attention / rope_kernel(rows[:, None] - layout.column, signals.llm(layer, "frequencies"))
        return attention[strongest_heads(attention, 14)]

    def rule(self, signals: Signals, layout: VisualLayout, stage: Stage) -> Rule:
        assert stage.layer is not None
        score = self.attention(signals, layout, stage.layer - 1).mean(0).mean(0)
        states = signals.llm(stage.layer, "hidden")

        def rule(pool: Tensor, count: int) -> Tensor | Merged:
            return select_sparsevlm(score[pool], states[pool], count, recycle=self.version == "1.5")

        return rule

    def select(self, signals: Signals, layout: VisualLayout, stage: Stage) -> Selection:
        if not stage.adaptive:
            return super().select(signals, layout, stage)
        assert stage.layer is not None
        assert self.budget.tokens is not None
        attention, states = self.attention(signals, layout, stage.layer - 1), signals.llm(stage.layer, "hidden")
        score, rank = attention.mean(0).mean(0), RANKS[self.budget.tokens]
        pools = self.pools(layout, stage)
        counts = [_by_rank(attention[:, :, pool], *rank) for pool in pools]
        found = [
            recycled(score[pool], states[pool], count)
            if count < len(pool)
            else torch.arange(count, device=pool.device)
            for pool, count in zip(pools, counts, strict=True)
        ]
        if not any(isinstance(each, Merged) for each in found):
            return Selection(torch.arange(len(layout), device=score.device))
        return joined(layout, pools, found, "hidden")


def _by_rank(attention: Tensor, scale: float, bias: float) -> int:
    """[H, R, n] -> how many of the n version 1 keeps: all where the rank is full, else one less at most."""
    n = attention.shape[-1]
    if rank_count(attention, 1, 0) == n:
        return n
    return max(1, min(rank_count(attention, scale, bias), n - 1))
