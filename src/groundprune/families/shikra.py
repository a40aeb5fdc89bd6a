"""Shikra (arXiv 2306.15195): a LLaVA of 16 x 16 tokens that pads with white and says boxes in three decimals."""

from __future__ import annotations

from typing import Any

from groundprune.families.base import register_family
from groundprune.families.grounding import Grounding
from groundprune.families.llava import Llava
from groundprune.families.tiny_parts import IMAGE, tiny_clip, tiny_llama
from groundprune.models.shikra import ShikraConfig


@register_family
class Shikra(Llava):
    """The authors draw one of 54 wordings per sample, unseeded; here it is the one that their paper names."""

    name = "shikra"
    model_types = ("shikra",)
    grounding = Grounding(
        rec_prompt="In <image>, I need the bounding box coordinates of {expression}.",
        vqa_prompt="Regarding the image <image>, please quickly answer this question: {question} in a simple manner.",
        codec="shikra",
        frame="padded",
    )

    def prepare_processor(self, processor: Any) -> Any:
        return processor  # it pads by itself

    def tiny_config(self, layers: int = 4, side: int = 6, **options: Any) -> Any:
        return ShikraConfig(
            vision_config=tiny_clip(side), text_config=tiny_llama(layers), image_token_index=IMAGE,
            image_seq_length=side**2,
        )  # fmt: skip
