"""Parts of tiny models: sizes that all families share, so that one proof runs on each without a download."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

PAD, BOS = 0, 1
WORDS = range(2, 80)  # ids that stand for text
MARKS = range(80, 96)  # ids that a family may use for what surrounds its images
VIDEO, IMAGE = 98, 99  # placeholders
VOCABULARY = 100
PATCH = 4  # pixels

Kinds = Sequence[Sequence[int]]  # per prompt row, which of the visuals stand in it


@dataclass(frozen=True, eq=False)
class TinyVisuals:
    """What may stand in a prompt of a tiny model.

    tokens: per visual (an image of some size, a video) the ids that stand for it, marks around it included.
    encode: the encoder's arguments for the visuals of each row, pixels drawn from the generator.
    extra: what else the model reads along with ids: Long[B, L].
    """

    tokens: Sequence[list[int]]
    encode: Callable[[Kinds, torch.Generator], dict[str, Tensor]]
    extra: Callable[[Tensor], dict[str, Tensor]] = lambda ids: {}


def square_visuals(config: Any, tokens: list[int]) -> TinyVisuals:
    """One kind of image: a square crop of the tower's size."""
    side = config.vision_config.image_size

    def encode(kinds: Kinds, generator: torch.Generator) -> dict[str, Tensor]:
        return {"pixel_values": torch.randn(sum(map(len, kinds)), 3, side, side, generator=generator)}

    return TinyVisuals([tokens], encode)


def text_sizes(layers: int = 4) -> dict[str, Any]:
    """Arguments that decoder configs of all kinds take."""
    return {
        "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": layers, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": VOCABULARY, "max_position_embeddings": 4096,
        "pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": None,
    }  # fmt: skip


def tower_sizes(side: int) -> dict[str, Any]:
    """Arguments that configs of towers with side x side patches take."""
    return {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
        "image_size": PATCH * side, "patch_size": PATCH,
    }  # fmt: skip


def tiny_clip(side: int) -> dict[str, Any]:
    """Config of a tower with a CLS token."""
    from transformers import CLIPVisionConfig

    return CLIPVisionConfig(**tower_sizes(side), projection_dim=32).to_dict()


def tiny_siglip(side: int) -> dict[str, Any]:
    """Config of a tower without."""
    from transformers import SiglipVisionConfig

    return SiglipVisionConfig(**tower_sizes(side), vision_use_head=False).to_dict()


def tiny_llama(layers: int = 4) -> dict[str, Any]:
    """Config of the plainest decoder."""
    from transformers import LlamaConfig

    return LlamaConfig(**text_sizes(layers)).to_dict()
