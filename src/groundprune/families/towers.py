"""The kinds of vision tower, and where in each a signal can be read."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Tower:
    """layers, attention: paths of the list of blocks in the tower, and of the attention module in a block.

    cls: the first token of each image is a CLS token. packed: the patches of all images follow each other in one
    sequence; else the tower gets a batch of crops of one size.
    """

    layers: str = "encoder.layers"
    attention: str = "self_attn"
    cls: bool = False
    packed: bool = False


_QWEN = Tower("blocks", "attn", packed=True)
TOWERS = {
    "clip_vision_model": Tower(cls=True),
    "instructblip_vision_model": Tower(cls=True),
    "siglip_vision_model": Tower(),
    "internvl_vision": Tower("encoder.layer", "attention", cls=True),
    "idefics3_vision": Tower(),
    "smolvlm_vision": Tower(),
    "pixtral": Tower("transformer.layers", "attention", packed=True),
    "qwen2_vl_vision": _QWEN,
    "qwen2_5_vl_vision": _QWEN,
    "qwen3_vl_vision": _QWEN,
    "qwen3_5_vision": _QWEN,
    "qwen3_5_moe_vision": _QWEN,
}  # by the model type of the vision config


def block_mean(value: Tensor, rows: int, cols: int, factor: int) -> Tensor:
    """[..., rows * cols, C] in raster order -> [..., rows * cols / factor^2, C]: mean of each factor x factor block.

    What a token made of several patches inherits from them.
    """
    lead, channels = value.shape[:-2], value.shape[-1]
    blocks = value.reshape(*lead, rows // factor, factor, cols // factor, factor, channels)
    return blocks.mean((-4, -2)).flatten(-3, -2)


def square_block_mean(value: Tensor, factor: int) -> Tensor:
    """[crops, side^2, ...] -> [crops, (side / factor)^2, ...]: `block_mean` of square crops."""
    side = math.isqrt(value.shape[1])
    return block_mean(value.flatten(2), side, side, factor).unflatten(-1, value.shape[2:])
