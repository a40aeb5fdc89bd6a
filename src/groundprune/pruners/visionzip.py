"""`visionzip`: keep the patches that CLS attends to most, and merge the others into an even sample of them.

Paper: "VisionZip: Longer is Better but Not Necessary in Vision Language Models", arXiv 2412.04467, CVPR 2025,
section 3. Source: github.com/dvlab-research/VisionZip, `CLIPVisionTower_VisionZip.forward`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from groundprune.pruners.base import Pruner, Rule
from groundprune.pruners.merging import Merged, at_least, merged, one_hot
from groundprune.pruners.ranking import others, ranked, rows_of, unit
from groundprune.pruners.registry import register
from groundprune.signals import CLS_ATTENTION, PROJECTOR, TOWER_CLS, TOWER_HIDDEN, Need, Signals
from groundprune.tokens.layout import VisualLayout
from groundprune.tokens.selection import Stage
from groundprune.tokens.sending import sent


@register
@dataclass(frozen=True)
class VisionZip(Pruner):
    """Needs a tower with a CLS token. 10 of 64 tokens are contextual, as in the paper's 54 + 10, 108 + 20, 162 + 30.

    The CLS token itself is one of the dominant ones; it takes the slot and id of the first patch that CLS attention
    dropped and that no contextual token stands on. A contextual token has those of the patch that it is built on. The
    official code, which renumbers, emits CLS, the dominant patches in raster order, then the contextual ones.
    """

    name = "visionzip"
    merges_in = "tower"
    official_positions = "reassigned-in-order"
    paper, year, scores_by = "2412.04467", 2024, "CLS attention, key similarity"
    needs = frozenset({CLS_ATTENTION, TOWER_CLS, TOWER_HIDDEN, Need("tower_keys"), PROJECTOR})

    def score(self, signals: Signals, layout: VisualLayout, stage: Stage) -> Tensor:
        return signals.tower_attention(kind="cls").sum(0)

    def rule(self, signals: Signals, layout: VisualLayout, stage: Stage) -> Rule:
        heads = len(signals.tower_attention(kind="cls"))
        attention, keys = self.score(signals, layout, stage), signals.tower_keys().unflatten(1, (heads, -1)).mean(1)

        def rule(pool: Tensor, count: int) -> Merged:
            at_least(self.name, count, 3, len(pool), "CLS, a dominant and a contextual one")
            return select_visionzip(attention[pool], keys[pool], count, max(1, (20 * count + 64) // 128))

        return rule


def select_visionzip(attention: Tensor, keys: Tensor, count: int, contextual: int) -> Merged:
    """attention: Float[..., N], the CLS row; keys: Float[..., N, C], mean over heads -> count slots, CLS among them.

    A contextual token is its patch plus the mean of the patches that resemble it more than the other samples.
    """
    n = attention.shape[-1]
    order = ranked(attention)
    dominant = order[..., : count - contextual - 1].sort(-1).values
    rest = others(dominant, n)
    every = torch.arange(rest.shape[-1])  # on the CPU, where masks become indices without waiting
    step = max(1, len(every) // contextual)
    sampled = (every % step == 0) & (every < contextual * step)
    places = (sent(every[mask], rest.device) for mask in (sampled, ~sampled))
    target, source = (rest.index_select(-1, place) for place in places)
    keys = unit(keys)
    nearest = (rows_of(keys, source) @ rows_of(keys, target).transpose(-1, -2)).argmax(-1)
    joins = nearest[..., None, :] == torch.arange(contextual, device=rest.device)[:, None]
    share = joins / joins.sum(-1, keepdim=True).clamp(min=1)
    weight = one_hot(target, n).scatter(-1, source[..., None, :].expand(joins.shape), share)
    # The first in the order of attention that is neither dominant nor sampled.
    taken = (order[..., :, None] == torch.cat([dominant, target], -1)[..., None, :]).any(-1)
    slot = order.gather(-1, taken.int().argmin(-1, keepdim=True))
    emitted = torch.cat([slot, dominant, target], -1)
    weight = torch.cat([torch.zeros_like(weight[..., :1, :]), one_hot(dominant, n), weight], -2)
    return merged(emitted, weight, cls=0)
