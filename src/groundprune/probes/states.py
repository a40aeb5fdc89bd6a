"""What is read of a tower beside its attention: the states of a block, at a depth, and the pixels it is given."""

from __future__ import annotations

import hashlib
import math
import threading
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn

from groundprune.signals import Need


def block_at(depth: Fraction, config: Any, need: Need, count: int) -> int:
    """Which of `count` blocks is the last of the first `depth` of them.

    A depth that falls on a block that attends within windows means the nearest one that attends to all: what a patch
    receives says little of the image else. Of two the deeper one, as in HiPrune's code for Qwen2.5-VL.
    """
    index = max(1, math.floor(depth * count + Fraction(1, 2))) - 1
    whole = getattr(config.vision_config, "fullatt_block_indexes", None)
    if whole and need.signal == "tower_attention":
        return min(whole, key=lambda block: (abs(block - index), -block))
    return index


def keep_output(raw: dict[Need, Tensor], need: Need, packed: bool) -> Callable[[nn.Module, Any, Any], None]:
    """A hook behind a block: its states, [B, T, C], or of packed images [T, C], as this thread computes them."""
    mine = threading.get_ident()

    def hook(module: nn.Module, args: Any, output: Any) -> None:
        if threading.get_ident() == mine:
            value = (output[0] if isinstance(output, tuple) else output).detach()
            raw[need] = value.reshape(-1, value.shape[-1]) if packed else value

    return hook


def fingerprint(pixels: Tensor) -> int:
    """A number that depends on the pixels alone: not on the batch, nor on whether they came in half precision."""
    content = pixels.detach().to(torch.bfloat16).cpu().contiguous().view(torch.int16).numpy().tobytes()
    return int.from_bytes(hashlib.blake2b(content, digest_size=7).digest(), "big")
