"""`ivc-prune`: keep tokens whose position ids anchor the rotary embedding, and those whose values the text resembles.

Paper: "IVC-Prune: Revealing the Implicit Visual Coordinates in LVLMs for Vision Token Pruning", arXiv 2602.03060,
ICLR 2026, section 4. Source: github.com/FireRedTeam/IVC-Prune, `IVCP_forward_flashattention`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from groundprune.errors import GroundPruneError
from groundprune.pruners.base import Pruner, Rule
from groundprune.pruners.between_layers import scaled, text_after
from groundprune.pruners.ranking import mask_of, ranked, top_by_tier
from groundprune.pruners.registry import register
from groundprune.signals import Need, Signals
from groundprune.tokens.layout import VisualLayout
from groundprune.tokens.selection import Stage

_LAYERS = {"qwen2_vl": (2, 28), "qwen2_5_vl": (16, 28)}  # by model type: the authors' layer, and of how many


@register
@dataclass(frozen=True)
class IVCPrune(Pruner):
    """One stage in the middle of the LLM that also takes the dropped tokens out of the earlier layers' cache.

    So `keep` is the share of the tokens that every layer's cache holds. The shares below are those of Qwen2.5-VL's
    code; the code for LLaVA takes 20%, 1% and twice 5% of all tokens, whatever the sum, and its softmax runs over the
    whole prompt.

    Args:
        coordinates: Share of the budget for each of the two kinds of anchors.
        seeds: Share of the budget for the tokens that the text's values resemble most.
        layer: The first one that sees fewer tokens; None = as deep as layer 16 of 32, or as its authors' for the
            model (Qwen2.5-VL 16 of 28, Qwen2-VL 2 of 28).
    """

    coordinates: float = 0.2
    seeds: float = 0.02
    layer: int | None = None
    name = "ivc-prune"
    pool = "image"
    official_positions = "preserved"
    paper, year, scores_by = "2602.03060", 2026, "RoPE coordinates, value similarity"
    needs = frozenset({Need("llm", kind="v"), Need("llm", kind="frequencies")})

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("coordinates", "seeds"):
            share = getattr(self, name)
            if not 0 <= share <= 1:
                raise GroundPruneError(f"{name} must be from 0 to 1 (got {share!r})")

    def for_model(self, config: Any) -> Pruner:
        if self.layer is not None or config.model_type not in _LAYERS:
            return self
        layer, of = _LAYERS[config.model_type]
        return replace(self, layer=scaled([layer], config.get_text_config().num_hidden_layers, of)[0])

    def stages(self, n_layers: int) -> list[Stage]:
        layer = scaled([16], n_layers)[0] if self.layer is None else self.layer
        return [Stage(layer, self.budget, evict_earlier=True)]

    def rule(self, signals: Signals, layout: VisualLayout, stage: Stage) -> Rule:
        assert stage.layer is not None
        values = signals.llm(stage.layer - 1, "v")
        after = list(text_after(self.label, signals, layout))
        # Like the official code, without the first two where there are more.
        text = signals.llm(stage.layer - 1, "v", rows=after[2:] or after)
        cos, sin = coordinate_scores(layout.position, signals.llm(stage.layer, "frequencies"))

        def rule(pool: Tensor, count: int) -> Tensor:
            anchors = round(count * self.coordinates)
            seeds = max(1, round(count * self.seeds))
            return select_ivcprune(values[:, pool], text, cos[pool], sin[pool], count, anchors, seeds)

        return rule


def coordinate_scores(position: Tensor, frequencies: Tensor) -> tuple[Tensor, Tensor]:
    """Long[A, N] -> two of Float[N]: the mean cosine and sine of each position id's rotary angles, over axes too.

    frequencies: Float[C / 2], of the rotary embedding. Near 1 the rotation is almost the identity, or almost a
    quarter turn.
    """
    angle = position.float()[..., None] * frequencies.to(position.device)
    return angle.cos().mean(-1).mean(0), angle.sin().mean(-1).mean(0)


def value_attention(rows: Tensor, values: Tensor, chunk: int = 64) -> Tensor:
    """[H, R, C], [H, L, C] -> [L]: softmax(rows values^T / sqrt(C)), mean over heads and rows, `chunk` at once."""
    total = values.new_zeros(values.shape[1], dtype=torch.float32)
    for part in rows.float().split(chunk, dim=1):
        total += (part @ values.float().transpose(1, 2) * values.shape[-1] ** -0.5).softmax(-1).mean(0).sum(0)
    return total / rows.shape[1]


def select_ivcprune(
    values: Tensor, text: Tensor, cos: Tensor, sin: Tensor, count: int, anchors: int, seeds: int,
    beside: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """values: Float[H, N, C], of the image; text: Float[H, R, C] -> Long[count], ascending.

    First the `anchors` largest of `cos` and of `sin`, and the `seeds` largest by the text's value attention; the rest
    by that of text and seeds together. beside: Float[H, M, C], further columns of the softmax.
    """
    n = values.shape[1]
    every = values if beside is None else torch.cat([values, beside], 1)
    by_text = value_attention(text, every)[:n]
    chosen = ranked(by_text, seeds)
    score = value_attention(torch.cat([text, values[:, chosen]], 1), every)[:n]
    first = mask_of(torch.cat([ranked(cos, anchors), ranked(sin, anchors), chosen]), n)
    return top_by_tier(first.int(), score, count)
