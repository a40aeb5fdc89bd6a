"""Features of methods that merge tokens before the LLM."""

from __future__ import annotations

import torch
from torch import Tensor

from groundprune.pruning.plan import Plan
from groundprune.signals import Signals
from groundprune.tokens.selection import Selection
from groundprune.tokens.sending import sent


def merged(plan: Plan, features: Tensor, selection: Selection, signals: Signals) -> Tensor:
    """[K, D]: what the LLM reads in the kept slots. features: [N, D], of all tokens."""
    merge = selection.merge
    assert merge is not None
    if merge.space == "tower":
        mixed = merge.weight @ signals.tower_hidden()
        new = plan.family.project(plan.model.base_model, mixed.to(features.dtype))
    else:
        new = (merge.weight @ features.float()).to(features.dtype)
    # Newlines have no place in the tower: they stay what they are.
    kept = sent(selection.kept, features.device)
    return torch.where(signals.layout.is_patch[kept, None], new, features[kept])
