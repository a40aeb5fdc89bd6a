"""EVA ViT-g as LAVIS published it: the tensors of MiniGPT-v2's tower."""

from __future__ import annotations

import math
import re
from functools import partial

import torch
from torch import Tensor

from groundprune.errors import GroundPruneError
from groundprune.models.convert.result import Part
from groundprune.models.convert.weights import Weights

_UNUSED = ("norm.", "fc_norm.", "head.", "lm_head.", "mask_token")
_TOWER_NAMES = {
    "cls_token": "embeddings.class_embedding",
    "pos_embed": "embeddings.position_embedding",
    "patch_embed.proj.": "embeddings.patch_embedding.",
}
_BLOCK_NAMES = {
    "norm1.": "layer_norm1.",
    "norm2.": "layer_norm2.",
    "attn.qkv.": "self_attn.qkv.",
    "attn.proj.": "self_attn.projection.",
    "mlp.": "mlp.",
}


def eva_parts(towers: Weights, depth: int, rows: int) -> dict[str, Part]:
    """Of the tower, by their names in the result. depth: blocks that are used; rows: of patches that it will see."""
    parts: dict[str, Part] = {}
    for name in towers:
        new = eva_name(name, depth)
        if new is None:
            continue
        shape, dtype, make = towers.shape(name), torch.float16, partial(towers.read, name)
        if name == "pos_embed":
            side = math.isqrt(shape[1] - 1)
            if side**2 + 1 != shape[1]:
                raise GroundPruneError(f"{towers.path}: {shape[1]} position embeddings are no square and a CLS token")
            shape, dtype, make = (1, rows**2 + 1, shape[2]), torch.float32, partial(_positions, towers, side, rows)
        if name.endswith(".attn.q_bias"):
            values = name.replace("q_bias", "v_bias")
            shape = (2 * shape[0] + towers.shape(values)[0],)
            make = partial(_bias, towers, name, values)
        parts[f"model.vision_tower.{new}"] = Part(shape, dtype, make)
    return parts


def eva_name(name: str, depth: int) -> str | None:
    """The name in transformers' tower; None for what is not used. Raises GroundPruneError for an unknown one."""
    if name.startswith(_UNUSED):
        return None
    block = re.fullmatch(r"blocks\.([0-9]+)\.(.+)", name)
    names, prefix, rest = _TOWER_NAMES, "", name
    if block:
        if int(block[1]) >= depth or block[2] == "attn.v_bias":  # v_bias goes with q_bias
            return None
        names, prefix, rest = _BLOCK_NAMES, f"encoder.layers.{block[1]}.", block[2]
        if rest == "attn.q_bias":
            return f"{prefix}self_attn.qkv.bias"
    for old, new in names.items():
        if rest.startswith(old):
            return prefix + new + rest.removeprefix(old)
    raise GroundPruneError(f"the tower's file holds unknown weights (the first: {name})")


def _bias(towers: Weights, queries: str, values: str) -> Tensor:
    q, v = towers.read(queries), towers.read(values)
    return torch.cat([q, torch.zeros_like(q), v])


def _positions(towers: Weights, side: int, rows: int) -> Tensor:
    """[1, 1 + rows^2, C]: stretched over the larger grid as the authors do (bicubic, without antialiasing)."""
    given = towers.read("pos_embed").float()
    grid = given[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    grid = torch.nn.functional.interpolate(grid, size=(rows, rows), mode="bicubic", align_corners=False)
    return torch.cat([given[:, :1], grid.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)
