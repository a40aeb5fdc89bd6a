"""Models of real widths with random weights, whose costs are those of the real ones layer for layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from groundprune.exactness.tiny import tiny_inputs, tiny_of
from groundprune.families import family_of
from groundprune.families.tiny_parts import BOS, IMAGE, PAD, PATCH, VIDEO, VOCABULARY, WORDS, tiny_clip

SIDE = 24  # cells of an image's edge: 576 tokens, as LLaVA-1.5 makes of every image
_BEFORE, _AFTER = 4, 20  # words around the image


@dataclass(frozen=True)
class Size:
    """The LLM of a model: its width is real, its depth is cut to what memory and time hold.

    Attributes:
        name: of the model whose widths these are.
        layers: that are built.
        of: layers that the real one has.
        config: given the layers, a config with a small tower and a small vocabulary.
    """

    name: str
    layers: int
    of: int
    config: Callable[[int], Any]

    def __str__(self) -> str:
        return f"{self.name}, {self.layers} of {self.of} layers"

    def build(self, device: torch.device | str, dtype: torch.dtype) -> tuple[Any, dict[str, Tensor]]:
        """The model, random, and the inputs of one prompt with one image of 576 tokens."""
        model = tiny_of(self.config(self.layers)).to(device, dtype)
        inputs = _qwen_inputs(model) if model.config.model_type.startswith("qwen") else tiny_inputs(
            model, [(1, _BEFORE, _AFTER)]
        )  # fmt: skip
        return model, {
            name: value.to(device, dtype if value.is_floating_point() else value.dtype)
            for name, value in inputs.items()
        }


def _llava(width: int, inner: int, heads: int) -> Callable[[int], Any]:
    def config(layers: int) -> Any:
        from transformers import LlamaConfig, LlavaConfig

        text = LlamaConfig(
            hidden_size=width, intermediate_size=inner, num_hidden_layers=layers, num_attention_heads=heads,
            num_key_value_heads=heads, vocab_size=VOCABULARY, max_position_embeddings=4096, pad_token_id=PAD,
            bos_token_id=BOS, eos_token_id=None,
        )  # fmt: skip
        return LlavaConfig(
            vision_config=tiny_clip(SIDE), text_config=text, image_token_index=IMAGE, image_seq_length=SIDE**2
        )

    return config


def _qwen(width: int, inner: int, heads: int, groups: int) -> Callable[[int], Any]:
    def config(layers: int) -> Any:
        from transformers import Qwen2_5_VLConfig

        from groundprune.families.qwen import VISION_END, VISION_START

        rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}
        text = {
            "hidden_size": width, "intermediate_size": inner, "num_hidden_layers": layers,
            "num_attention_heads": heads, "num_key_value_heads": groups, "vocab_size": VOCABULARY,
            "max_position_embeddings": 4096, "rope_parameters": rope, "pad_token_id": PAD, "bos_token_id": BOS,
            "eos_token_id": None,
        }  # fmt: skip
        vision = {
            "depth": 1, "num_heads": 4, "patch_size": PATCH, "hidden_size": 32, "intermediate_size": 64,
            "out_hidden_size": width, "window_size": 4 * PATCH, "fullatt_block_indexes": [0],
        }  # fmt: skip
        return Qwen2_5_VLConfig(
            text_config=text, vision_config=vision, image_token_id=IMAGE, video_token_id=VIDEO,
            vision_start_token_id=VISION_START, vision_end_token_id=VISION_END,
        )  # fmt: skip

    return config


def _qwen_inputs(model: Any) -> dict[str, Tensor]:
    family: Any = family_of(model.config)
    vision, generator = model.config.vision_config, torch.Generator().manual_seed(1)
    patches = SIDE * vision.spatial_merge_size
    words = torch.randint(WORDS.start, WORDS.stop, (_BEFORE + _AFTER,), generator=generator).tolist()
    ids = torch.tensor([words[:_BEFORE] + family.tiny_tokens("image", 1, patches, patches) + words[_BEFORE:]])
    values = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    return {
        "input_ids": ids, "attention_mask": torch.ones_like(ids), "mm_token_type_ids": (ids == IMAGE).long(),
        "pixel_values": torch.randn(patches**2, values, generator=generator),
        "image_grid_thw": torch.tensor([[1, patches, patches]]),
    }  # fmt: skip


SIZES = (
    Size("LLaVA-1.5-7B", 1, 32, _llava(4096, 11_008, 32)),
    Size("LLaVA-1.5-13B", 1, 40, _llava(5120, 13_824, 40)),
    Size("Qwen2.5-VL-3B", 2, 36, _qwen(2048, 11_008, 16, 2)),
)
QUICK_SIZES = (Size("Qwen2.5-VL-3B", 1, 36, _qwen(2048, 11_008, 16, 2)),)
