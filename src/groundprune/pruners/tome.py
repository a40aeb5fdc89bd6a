"""`tome`: merge the projected tokens that resemble each other most, pair by pair, until K are left.

Paper: "Token Merging: Your ViT But Faster", arXiv 2210.09461, ICLR 2023, section 3. Source:
github.com/facebookresearch/ToMe, `bipartite_soft_matching`. There it runs in every block of a ViT; here it is
repeated on what the LLM would read, as far as one round allows at a time.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from groundprune.pruners.base import Pruner, Rule
from groundprune.pruners.merging import Merged, merged
from groundprune.pruners.ranking import checked, ranked, unit
from groundprune.pruners.registry import register
from groundprune.signals import Signals
from groundprune.tokens.layout import VisualLayout
from groundprune.tokens.selection import Stage


@register
@dataclass(frozen=True)
class ToMe(Pruner):
    """Needs nothing but the projected features.

    A group's slot and id are those of the token that the others were merged into. The official code, made for ViTs,
    has no position ids to give, but a sequence of tokens: even ones by falling similarity, then the odd ones.
    """

    name = "tome"
    merges_in = "projected"
    official_positions = "reassigned-in-order"
    paper, year, scores_by = "2210.09461", 2022, "feature similarity"

    def rule(self, signals: Signals, layout: VisualLayout, stage: Stage) -> Rule:
        features = signals.projected
        return lambda pool, count: select_tome(features[pool], count)


def select_tome(tokens: Tensor, count: int, metric: Tensor | None = None) -> Merged:
    """tokens: Float[..., N, D] -> count groups, each the mean of its tokens, in the official order.

    A round compares every second token with the others by cosine (of `metric` in the first round, of the tokens
    after it) and merges those that have the nearest one: at most half of what is left.
    """
    tokens = checked(tokens, "features")
    n = tokens.shape[-2]
    root = torch.arange(n, device=tokens.device).expand(tokens.shape[:-1])
    group, current = root, tokens if metric is None else metric
    while (size := root.shape[-1]) > count:
        even, odd = unit(current[..., 0::2, :]), unit(current[..., 1::2, :])
        similarity, nearest = (even @ odd.transpose(-1, -2)).max(-1)
        order = ranked(similarity)
        gone = min(size - count, size // 2)
        stay = even.shape[-2] - gone
        # Where each of the even ones goes: to a place of its own, or to that of its nearest odd one.
        place = order.argsort(-1) - gone
        goes = torch.where(place >= 0, place, stay + nearest)
        target = torch.empty_like(root)
        target[..., 0::2] = goes
        target[..., 1::2] = stay + torch.arange(odd.shape[-2], device=root.device)
        group = target.gather(-1, group)
        root = torch.cat([root[..., 0::2].gather(-1, order[..., gone:]), root[..., 1::2]], -1)
        current = _means(group, root.shape[-1]) @ tokens
    return merged(root, _means(group, count))


def _means(group: Tensor, count: int) -> Tensor:
    """Long[..., N] -> Float[..., count, N]: the weights of each group's mean."""
    member = (group[..., None, :] == torch.arange(count, device=group.device)[:, None]).float()
    return member / member.sum(-1, keepdim=True)
