"""Read mlx-vlm's tower of Qwen2.5-VL while it runs: what its blocks give, and queries and keys of their attention."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import numpy as np
import torch
from mlx_vlm.models.qwen2_5_vl.vision import apply_rotary_pos_emb_vision
from torch import Tensor

from groundprune.families.towers import Tower
from groundprune.probes.attention import AttentionCall
from groundprune.probes.calls import sequences
from groundprune.probes.tower import reader_of
from groundprune.signals import Need


def to_torch(array: mx.array) -> Tensor:
    """On the CPU; whole numbers as Long, others in fp32, which holds all that half precision does."""
    whole = not mx.issubdtype(array.dtype, mx.floating)
    return torch.from_numpy(np.array(array.astype(mx.int64 if whole else mx.float32)))


class Watched:
    """In a tower's block's place: calls it, and remembers what went in and came out."""

    def __init__(self, block: Any):
        self.block = block

    def __call__(self, states: mx.array, cu_seqlens: mx.array, rotary_pos_emb: mx.array) -> mx.array:
        self.states, self.ends, self.rotary = states, cu_seqlens, rotary_pos_emb
        self.output = self.block(states, cu_seqlens=cu_seqlens, rotary_pos_emb=rotary_pos_emb)
        return self.output

    def read(self, need: Need, kind: Tower) -> Tensor:
        """[T, ...] over the patches of all images, in the tower's order; see `Family.to_tokens`."""
        if need.signal == "tower_hidden":
            return to_torch(self.output)
        attention = self.block.attn
        heads = attention.qkv(self.block.norm1(self.states)).reshape(len(self.states), 3, attention.num_heads, -1)
        query, key = (
            to_torch(apply_rotary_pos_emb_vision(heads[None, :, i], self.rotary)).transpose(1, 2) for i in (0, 1)
        )
        reader = reader_of(need, kind)
        calls = sequences(AttentionCall(query, key, key, scaling=attention.scale), to_torch(self.ends))
        return torch.cat([reader(call) for call in calls], dim=1)[0]


@contextlib.contextmanager
def watched(tower: Any, indices: set[int]) -> Iterator[dict[int, Watched]]:
    """While active, what these blocks of the tower do is remembered."""
    stock = tower.blocks
    found = {index: Watched(stock[index]) for index in indices}
    tower.blocks = [found.get(index, block) for index, block in enumerate(stock)]
    try:
        yield found
    finally:
        tower.blocks = stock
