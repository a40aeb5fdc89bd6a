"""Gemma 3 (arXiv 2503.19786): a SigLIP square whose patches are averaged into 256 tokens.

The tokens of an image see each other in both directions. Layers with a sliding window count the columns that are
there, so behind a prompt longer than the window a pruned token leaves room for an older one.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from torch import Tensor

from groundprune.families.base import Family, register_family
from groundprune.families.llava import LLAVA_GROUNDING
from groundprune.families.tiny_parts import IMAGE, MARKS, TinyVisuals, square_visuals, text_sizes, tiny_siglip
from groundprune.families.towers import block_mean
from groundprune.tokens.layout import VisualUnit


@register_family
class Gemma3(Family):
    """No box language of its training is documented: LLaVA's wording, of the original image."""

    name = "gemma3"
    bidirectional = True
    model_types = ("gemma3",)
    grounding = replace(LLAVA_GROUNDING, frame="original")

    def units(self, base: Any, modality: str, arguments: dict[str, Any]) -> list[VisualUnit]:
        side = math.isqrt(base.config.mm_tokens_per_image)
        pixels = arguments["pixel_values"]
        return [VisualUnit.grid(side, side, image) for image in pixels]

    def to_tokens(self, base: Any, value: Tensor, modality: str, arguments: dict[str, Any]) -> list[Tensor]:
        side = math.isqrt(value.shape[1])
        return list(block_mean(value.flatten(2), side, side, side // math.isqrt(base.config.mm_tokens_per_image)))

    def tiny_config(self, layers: int = 4, side: int = 8, window: int = 512, **options: Any) -> Any:
        """side: patches, 2 x 2 a token; window: of every other layer."""
        from transformers import Gemma3Config

        kinds = ["sliding_attention", "full_attention"]
        text = {
            **text_sizes(layers), "head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": window,
            "layer_types": [kinds[i % 2] for i in range(layers)],
        }  # fmt: skip
        return Gemma3Config(
            vision_config=tiny_siglip(side), text_config=text, mm_tokens_per_image=(side // 2) ** 2,
            image_token_index=IMAGE, boi_token_index=MARKS[0], eoi_token_index=MARKS[1],
        )  # fmt: skip

    def tiny_visuals(self, config: Any) -> TinyVisuals:
        placeholders = [IMAGE] * config.mm_tokens_per_image
        visuals = square_visuals(config, [config.boi_token_index, *placeholders, config.eoi_token_index])
        return replace(visuals, extra=lambda ids: {"token_type_ids": (ids == IMAGE).long()})
