"""Rotary positions on two axes for a vision tower: half of each head turns with the row, half with the column."""

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.models.clip.modeling_clip import eager_attention_forward

GRID_ROTARY = "grid_rotary"  # an attention implementation, as `set_attn_implementation` takes it
_THETA = 10.0  # the fastest pair turns once in 2 pi patches, the slowest in some fifty


def rotated(states: Tensor) -> Tensor:
    """Queries or keys [B, H, 1 + side^2, D], each patch turned by its row and column; the class token stays."""
    patches = states[:, :, 1:]
    side, width = round(patches.shape[2] ** 0.5), patches.shape[3]
    cell = torch.arange(side * side, device=states.device)
    rate = _THETA ** (-torch.arange(width // 4, device=states.device) / (width // 4))
    angle = torch.cat([(cell // side)[:, None] * rate, (cell % side)[:, None] * rate], -1)  # [N, D / 2]
    first, second = patches.float().chunk(2, -1)
    turned = torch.cat(
        [first * angle.cos() - second * angle.sin(), second * angle.cos() + first * angle.sin()], -1
    ).to(states.dtype)
    return torch.cat([states[:, :, :1], turned], 2)


def _attend(module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options):
    return eager_attention_forward(module, rotated(query), rotated(key), value, attention_mask, **options)


AttentionInterface.register(GRID_ROTARY, _attend)
