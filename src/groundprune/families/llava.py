"""LLaVA-1.5 (arXiv 2310.03744) and every LlavaForConditionalGeneration with a CLIP or SigLIP tower.

One square image is rows x cols patches in raster order, one visual token each; a CLS token is dropped.
"""

from __future__ import annotations

from typing import Any

from groundprune.families.base import Family, register_family
from groundprune.families.grounding import Grounding
from groundprune.families.tiny_parts import IMAGE, TinyVisuals, square_visuals, tiny_clip, tiny_llama

LLAVA_GROUNDING = Grounding(
    rec_prompt="Please provide the bounding box coordinate of the region this sentence describes: {expression}",
    vqa_prompt="{question}\nAnswer the question using a single word or phrase.",
    codec="llava",
    frame="padded",
)


@register_family
class Llava(Family):
    """Boxes are said as [x1, y1, x2, y2] of the padded square."""

    name = "llava"
    model_types = ("llava",)
    grounding = LLAVA_GROUNDING
    unprojectable = None

    def prepare_processor(self, processor: Any) -> Any:
        """Pads images to a square: the converted checkpoints crop instead, and lose the sides of the image."""
        from groundprune.models.llava_images import LlavaImageProcessorPil

        processor.image_processor = LlavaImageProcessorPil.like(processor.image_processor)
        return processor

    def tiny_config(self, layers: int = 4, side: int = 6, **options: Any) -> Any:
        from transformers import LlavaConfig

        return LlavaConfig(
            vision_config=tiny_clip(side), text_config=tiny_llama(layers), image_token_index=IMAGE,
            vision_feature_layer=-2, image_seq_length=side**2,
        )  # fmt: skip

    def tiny_visuals(self, config: Any) -> TinyVisuals:
        return square_visuals(config, [IMAGE] * config.image_seq_length)
