"""`prumerge`: keep the patches that CLS attends to most, add what resembles them to them, append a sum of the rest.

Paper: "LLaVA-PruMerge: Adaptive Token Reduction for Efficient Large Multimodal Models", arXiv 2403.15388, ICCV 2025,
section 3. Source: github.com/42Shawn/LLaVA-PruMerge, `token_prune_merge_advanced` and `..._plus`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from groundprune.pruners.base import Pruner, Rule
from groundprune.pruners.merging import Merged, at_least, merged, one_hot
from groundprune.pruners.ranking import checked, mask_of, others, ranked, rows_of, unit
from groundprune.pruners.registry import register
from groundprune.signals import PROJECTOR, TOWER_HIDDEN, Need, Signals
from groundprune.tokens.layout import VisualLayout
from groundprune.tokens.selection import Stage

_ATTENTION, _KEYS = Need("tower_attention", -1, "cls-joint"), Need("tower_keys", -1)


@register
@dataclass(frozen=True)
class PruMerge(Pruner):
    """Needs a tower with a CLS token; scores by its last block, though the features are of the block before.

    The appended token takes the slot and id of the first patch that was dropped, the one with the largest weight in
    it. The official code, which renumbers, emits patches by falling attention and the appended token last.
    """

    name = "prumerge"
    merges_in = "tower"
    official_positions = "reassigned-in-order"
    paper, year, scores_by = "2403.15388", 2024, "CLS attention, key similarity"
    needs = frozenset({_ATTENTION, _KEYS, TOWER_HIDDEN, PROJECTOR})
    spatial: ClassVar[int] = 0  # of 4 kept patches, how many are an even sample

    def rule(self, signals: Signals, layout: VisualLayout, stage: Stage) -> Rule:
        score, keys = signals.tower_attention(-1, "cls-joint")[0], signals.tower_keys(-1)

        def rule(pool: Tensor, count: int) -> Merged:
            at_least(self.name, count, 2, len(pool), "a patch and the sum of the others")
            return select_prumerge(score[pool], keys[pool], count, (count - 1) * self.spatial // 4)

        return rule


@register
@dataclass(frozen=True)
class PruMergePlus(PruMerge):
    """PruMerge with an even sample of the image among the kept patches: three of four, the official ratio.

    The official code samples with a whole stride, and so meets no given count; here the sample has exactly the
    asked-for size.
    """

    name = "prumerge+"
    scores_by = "CLS attention, even sample, key similarity"
    spatial = 3


def select_prumerge(score: Tensor, keys: Tensor, count: int, spatial: int = 0, neighbours: int = 32) -> Merged:
    """score: Float[..., N], CLS attention; keys: Float[..., N, C] -> count slots, the appended token among them.

    `spatial` of them are spread evenly over the patches that attention leaves, in raster order. Each kept patch adds
    its `neighbours` most similar patches by key, kept ones too, weighted by score and NOT normalised; the appended
    token is the same sum over all that is dropped.
    """
    score, n = checked(score), score.shape[-1]
    kept = ranked(score, count - 1 - spatial)
    if spatial:
        rest = others(kept, n)
        even = (2 * torch.arange(spatial, device=score.device) + 1) * rest.shape[-1] // (2 * spatial)
        kept = torch.cat([kept, rest[..., even]], -1)
    is_kept = mask_of(kept, n)
    slot = score.masked_fill(is_kept, -torch.inf).argmax(-1, keepdim=True)
    # Candidates in the official order, kept ones first: it decides between equally similar ones.
    candidates = torch.cat([kept, others(kept, n)], -1)
    keys = unit(keys)
    similarity = rows_of(keys, kept) @ rows_of(keys, candidates).transpose(-1, -2)
    similarity.diagonal(dim1=-2, dim2=-1).fill_(-torch.inf)  # itself
    near = ranked(similarity, min(neighbours, n - 1))
    near = candidates[..., None, :].expand(similarity.shape).gather(-1, near)
    weight = one_hot(kept, n) + mask_of(near, n) * score[..., None, :]
    rest = (~is_kept * score)[..., None, :]
    return merged(torch.cat([kept, slot], -1), torch.cat([weight, rest], -2))
