"""What is kept of a tower's attention where it is not the CLS token's row, see `groundprune.probes.attention`."""

from __future__ import annotations

import torch
from torch import Tensor

from groundprune.probes.attention import AttentionCall, cls_row
from groundprune.tokens.masks import allowed_by


def cls_row_joint(call: AttentionCall) -> Tensor:
    """[B, L, 1]: as `cls_row`, with the heads side by side as one; scaled by the root of the joint width."""
    query, key = (x.transpose(1, 2).flatten(2)[:, None] for x in (call.query[:, :, :1], call.key))
    return cls_row(AttentionCall(query, key, key))


def received(call: AttentionCall, chunk: int = 256) -> Tensor:
    """[B, L, H]: attention that each key receives, mean over the queries that may see it; `chunk` at a time."""
    total = torch.zeros(*call.query.shape[:2], call.key.shape[2], device=call.query.device)
    for start in range(0, call.query.shape[2], chunk):
        total += call.rows(slice(start, start + chunk)).sum(2)
    return (total / _seen(call)).transpose(1, 2)


def keys(call: AttentionCall) -> Tensor:
    """[B, L, H, C]."""
    return call.key.transpose(1, 2)


def _seen(call: AttentionCall) -> Tensor | int:
    """How many queries may see each key: [B or 1, 1, L], or a number where it is all of them."""
    return call.query.shape[2] if call.mask is None else allowed_by(call.mask).sum(2).clamp(min=1)
