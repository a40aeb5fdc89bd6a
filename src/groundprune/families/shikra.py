"""Shikra (arXiv 2306.15195): a LLaVA of 16 x 16 tokens that pads with white and says boxes in three decimals."""

from __future__ import annotations

from typing import Any

import groundprune.models.shikra  # noqa: F401 - registers the model with transformers
from groundprune.families.base import Grounding, register_family
from groundprune.families.llava import Llava


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
