"""Tiny random models from the real config classes, for exactness tests without a download."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

IMAGE_TOKEN = 99
PAD_TOKEN = 0


def tiny_llava(side: int = 24, layers: int = 3, seed: int = 0) -> Any:
    """A LlavaForConditionalGeneration of side x side visual tokens; eval mode, fp32, sdpa.

    Weights have a std of 1.4 / sqrt(fan_in): with the default 0.02 attention is uniform, every position id gives
    the same output, and an exactness test proves nothing.
    """
    config: Any = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
            image_size=4 * side, patch_size=4, projection_dim=32,
        ).to_dict(),
        text_config=LlamaConfig(
            hidden_size=64, intermediate_size=128, num_hidden_layers=layers, num_attention_heads=4,
            num_key_value_heads=2, vocab_size=100, max_position_embeddings=4096,
            pad_token_id=PAD_TOKEN, bos_token_id=1, eos_token_id=None,
        ).to_dict(),
        image_token_index=IMAGE_TOKEN, vision_feature_layer=-2, image_seq_length=side * side,
    )  # fmt: skip
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(config).eval()
    for name, weight in model.named_parameters():
        if weight.ndim > 1:
            fan_in = weight.shape[1:].numel() if "embed" not in name else 2
            torch.nn.init.normal_(weight, std=1.4 / math.sqrt(fan_in))
    model.generation_config.pad_token_id = PAD_TOKEN
    model.generation_config.eos_token_id = None
    return model


TINY = {"llava": tiny_llava}  # by family


def tiny_inputs(model: Any, prompts: list[tuple[int, int, int]], seed: int = 1) -> dict[str, Tensor]:
    """Left-padded inputs; one row per (images, words before each image, words after the last)."""
    generator = torch.Generator().manual_seed(seed)
    vision = model.config.vision_config
    image = [model.config.image_token_id] * (vision.image_size // vision.patch_size) ** 2
    rows = []
    for images, before, after in prompts:
        words = torch.randint(2, IMAGE_TOKEN, (images * before + after,), generator=generator).tolist()
        row: list[int] = []
        for i in range(images):
            row += words[i * before : (i + 1) * before] + image
        rows.append(row + words[images * before :])
    length = max(map(len, rows))
    shape = (sum(images for images, _, _ in prompts), 3, vision.image_size, vision.image_size)
    return {
        "input_ids": torch.tensor([[PAD_TOKEN] * (length - len(row)) + row for row in rows]),
        "attention_mask": torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows]),
        "pixel_values": torch.randn(shape, generator=generator),
    }
