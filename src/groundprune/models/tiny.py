"""Tiny random models of this room, for exactness tests without a download; see `groundprune.tiny`."""

from __future__ import annotations

import math
from typing import Any

import torch
from transformers import CLIPVisionConfig, InstructBlipVisionConfig, LlamaConfig

from groundprune.models.minigpt_v2 import PATCHES_PER_TOKEN, MiniGPTv2Config, MiniGPTv2ForConditionalGeneration
from groundprune.models.shikra import ShikraConfig, ShikraForConditionalGeneration
from groundprune.tiny import IMAGE_TOKEN, PAD_TOKEN


def tiny_shikra(side: int = 24, layers: int = 3, seed: int = 0) -> Any:
    """A ShikraForConditionalGeneration of side x side visual tokens; eval mode, fp32, sdpa."""
    config = ShikraConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
            image_size=4 * side, patch_size=4, projection_dim=32,
        ).to_dict(),
        text_config=_llama(layers), image_token_index=IMAGE_TOKEN, image_seq_length=side * side,
    )  # fmt: skip
    return _random(ShikraForConditionalGeneration, config, seed)


def tiny_minigpt_v2(side: int = 48, layers: int = 3, seed: int = 0) -> Any:
    """A MiniGPTv2ForConditionalGeneration of side x side / 4 visual tokens (side: a multiple of 4); as above."""
    config = MiniGPTv2Config(
        vision_config=InstructBlipVisionConfig(
            hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
            image_size=4 * side, patch_size=4,
        ).to_dict(),
        text_config=_llama(layers), image_token_index=IMAGE_TOKEN, image_seq_length=side * side // PATCHES_PER_TOKEN,
    )  # fmt: skip
    return _random(MiniGPTv2ForConditionalGeneration, config, seed)


def _llama(layers: int) -> dict[str, Any]:
    return LlamaConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=layers, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=100, max_position_embeddings=4096,
        pad_token_id=PAD_TOKEN, bos_token_id=1, eos_token_id=None,
    ).to_dict()  # fmt: skip


def _random(model_class: type, config: Any, seed: int) -> Any:
    """Weights of std 1.4 / sqrt(fan_in), as in `tiny_llava`."""
    torch.manual_seed(seed)
    model = model_class(config).eval()
    for name, weight in model.named_parameters():
        if weight.ndim > 1:
            fan_in = weight.shape[1:].numel() if "embed" not in name else 2
            torch.nn.init.normal_(weight, std=1.4 / math.sqrt(fan_in))
    model.generation_config.pad_token_id = PAD_TOKEN
    model.generation_config.eos_token_id = None
    return model
