"""MiniGPT-v2 (arXiv 2310.09478): each visual token is a strip of 4 patches, so the grid has 4 times as many rows."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from groundprune.families.base import Family, register_family
from groundprune.families.grounding import Grounding
from groundprune.families.tiny_parts import IMAGE, TinyVisuals, square_visuals, tiny_llama, tower_sizes
from groundprune.models.minigpt_v2 import PATCHES_PER_TOKEN, MiniGPTv2Config
from groundprune.tokens.layout import VisualUnit


@register_family
class MiniGPTv2(Family):
    """Tower signals are means over the 4 patches of a strip; the tower is EVA-CLIP, which has no text side here."""

    name = "minigpt-v2"
    model_types = ("minigpt_v2",)
    grounding = Grounding(
        rec_prompt="[refer] give me the location of {expression}",
        vqa_prompt="[vqa] Based on the image, respond to this question with a short answer: {question}",
        codec="minigpt-v2",
        frame="original",
    )

    def units(self, base: Any, modality: str, arguments: dict[str, Any]) -> list[VisualUnit]:
        pixels = arguments["pixel_values"]
        rows = base.config.vision_config.image_size // base.config.vision_config.patch_size
        return [VisualUnit.grid(rows, rows // PATCHES_PER_TOKEN, image) for image in pixels]

    def to_tokens(self, base: Any, value: Tensor, modality: str, arguments: dict[str, Any]) -> list[Tensor]:
        return list(value[:, 1:].unflatten(1, (-1, PATCHES_PER_TOKEN)).float().mean(2))

    def tiny_config(self, layers: int = 4, side: int = 8, **options: Any) -> Any:
        from transformers import InstructBlipVisionConfig

        return MiniGPTv2Config(
            vision_config=InstructBlipVisionConfig(**tower_sizes(side)), text_config=tiny_llama(layers),
            image_token_index=IMAGE, image_seq_length=side**2 // PATCHES_PER_TOKEN,
        )  # fmt: skip

    def tiny_visuals(self, config: Any) -> TinyVisuals:
        return square_visuals(config, [IMAGE] * config.image_seq_length)
