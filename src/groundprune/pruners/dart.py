"""`dart`: after layer 2 of the LLM, keep a few pivots and, for each, the tokens that resemble it least.

Paper: "Stop Looking for Important Tokens in Multimodal Language Models: Duplication Matters More", arXiv 2502.11494,
EMNLP 2025, section 4. Source: github.com/ZichenWen1/DART, `get_retained_image_token` (read as the copy in
github.com/Chenfei-Liao/VTC-Bench).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from groundprune.errors import GroundPruneError
from groundprune.pruners.base import Rule
from groundprune.pruners.between_layers import BetweenLayers, scaled, text_after
from groundprune.pruners.ranking import mask_of, ranked, unit
from groundprune.pruners.registry import register
from groundprune.signals import Need, Signals
from groundprune.tokens.budget import allot
from groundprune.tokens.layout import VisualLayout
from groundprune.tokens.selection import Stage


@register
@dataclass(frozen=True)
class Dart(BetweenLayers):
    """Needs no attention. Pivots are the tokens with the largest keys, of the image and of the text after it.

    States are compared under the LLM's final norm, as in the official code.

    Args:
        layer: The first one that sees fewer tokens; None = as deep as layer 2 of 32.
        image_pivots: How many tokens of the image are pivots.
        text_pivots: How many tokens of the text after it are.
    """

    layer: int | None = None
    image_pivots: int = 4
    text_pivots: int = 4
    name = "dart"
    official_positions = "preserved"
    paper, year, scores_by = "2502.11494", 2025, "distance from pivots"
    needs = frozenset({Need("llm", kind="k"), Need("llm", kind="hidden")})

    def __post_init__(self) -> None:
        super().__post_init__()
        pivots = self.image_pivots, self.text_pivots
        if not all(isinstance(count, int) and count >= 0 for count in pivots) or not any(pivots):
            raise GroundPruneError(
                f"image_pivots and text_pivots must be whole numbers, one of them above 0 (got {pivots[0]!r} and "
                f"{pivots[1]!r})"
            )

    def layers(self, n_layers: int) -> list[int]:
        return scaled([2], n_layers) if self.layer is None else [self.layer]

    def curve(self, x: float) -> Sequence[float]:
        return [x]

    def rule(self, signals: Signals, layout: VisualLayout, stage: Stage) -> Rule:
        assert stage.layer is not None
        after = list(text_after(self.label, signals, layout))
        keys, text_keys = (signals.llm(stage.layer - 1, "k", rows=rows).transpose(0, 1) for rows in (None, after))
        states, text_states = (signals.llm(stage.layer, "normed", rows=rows) for rows in (None, after))
        norms, text_norms = (k.flatten(1).abs().sum(-1) for k in (keys, text_keys))

        def rule(pool: Tensor, count: int) -> Tensor:
            pivots = ranked(norms[pool], min(self.image_pivots, count))
            text_pivots = ranked(text_norms, min(self.text_pivots, len(after)))
            queries = torch.cat([states[pool][pivots], text_states[text_pivots]])
            return select_dart(states[pool], queries, pivots, count)

        return rule


def select_dart(states: Tensor, queries: Tensor, pivots: Tensor, count: int) -> Tensor:
    """states: Float[..., N, D]; pivots: Long[..., P], among the N -> Long[..., count], ascending.

    queries: Float[..., Q, D], the states of all pivots in the order in which they choose. Each takes the tokens with
    the lowest cosine to it that are left, all the same number; where that does not come out even, the first take one
    more. The official order is that of a CPython set; the pruner's is image pivots by rank, then text pivots.
    """
    states, queries, n = unit(states), unit(queries), states.shape[-2]
    total, size = count - pivots.shape[-1], queries.shape[-2]
    taken = mask_of(pivots, n)
    similarity = queries @ states.transpose(-1, -2)
    for i, share in enumerate(allot(total, [n] * size)):
        unlike = -similarity[..., i, :]
        order = unlike.masked_fill_(taken, -torch.inf).sort(dim=-1, descending=True, stable=True).indices
        taken.scatter_(-1, order[..., :share], True)
    return taken.sort(dim=-1, descending=True, stable=True).indices[..., :count]
