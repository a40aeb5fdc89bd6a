"""Read the attention of vLLM's vision towers, whatever kernel computes it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from vllm.distributed import get_tp_group, tensor_model_parallel_all_gather

from groundprune.families.towers import Tower
from groundprune.probes.attention import AttentionCall
from groundprune.probes.tower import reader_of
from groundprune.signals import Need


@contextlib.contextmanager
def recorded(attention: nn.Module) -> Iterator[list[AttentionCall]]:
    """What the module, a MMEncoderAttention, is handed while the context is active."""
    calls: list[AttentionCall] = []

    def keep(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = dict(zip(("query", "key"), args, strict=False)) | kwargs
        # [B, L, H, C], or heads and channels side by side.
        query, key = (
            given[name].reshape(*given[name].shape[:2], -1, module.head_size).transpose(1, 2)
            for name in ("query", "key")
        )
        calls.append(AttentionCall(query, key, key, scaling=module.scale))

    handle = attention.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        yield calls
    finally:
        handle.remove()


def agreed(kept: Tensor) -> Tensor:
    """What the first rank of the tensor parallel group keeps: sums of another order must not choose other tokens."""
    group = get_tp_group()
    return kept if group.world_size == 1 else group.broadcast(kept.contiguous(), src=0)


def read(call: AttentionCall, need: Need, kind: Tower, lengths: Sequence[int] | None, sharded: bool) -> Tensor:
    """[B, L, H], or of packed images [L, H].

    lengths: of the sequences that a packed call holds. sharded: each rank of the tensor parallel group has some of
    the heads; all of them are put together, so that every rank keeps the same tokens.
    """
    reader = reader_of(need, kind)
    if lengths is None:
        value = reader(call)
    else:
        parts = zip(*(x.split(list(lengths), dim=2) for x in (call.query, call.key)), strict=True)
        value = torch.cat([reader(replace(call, query=q, key=k, value=k)) for q, k in parts], dim=1)[0]
    return tensor_model_parallel_all_gather(value.contiguous(), dim=-1) if sharded else value
