"""PaliGemma (arXiv 2407.07726): a SigLIP square, one token a patch; image and prompt see all of each other."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from groundprune.families.base import Family, register_family
from groundprune.families.grounding import Grounding
from groundprune.families.tiny_parts import IMAGE, TinyVisuals, square_visuals, text_sizes, tiny_siglip


@register_family
class PaliGemma(Family):
    """Boxes are said as <loc0000> to <loc1023>, y first, of the image squeezed to a square."""

    name = "paligemma"
    bidirectional = True
    model_types = ("paligemma",)
    first_position = 1
    unprojectable = None
    grounding = Grounding(
        rec_prompt="detect {expression}",
        vqa_prompt="answer en {question}",
        codec="paligemma",
        frame="original",  # shares of a squeezed image are shares of the original
    )

    def project(self, base: nn.Module, hidden: Tensor) -> Tensor:
        normed = self.tower(base).get_submodule("post_layernorm")(hidden)
        return base.get_submodule("multi_modal_projector")(normed)

    def tiny_config(self, layers: int = 4, side: int = 5, **options: Any) -> Any:
        from transformers import PaliGemmaConfig

        text = {**text_sizes(layers), "model_type": "gemma", "head_dim": 16}
        return PaliGemmaConfig(
            vision_config=tiny_siglip(side), text_config=text, image_token_index=IMAGE,
            projection_dim=text["hidden_size"], hidden_size=text["hidden_size"], vocab_size=text["vocab_size"],
        )  # fmt: skip

    def tiny_visuals(self, config: Any) -> TinyVisuals:
        visuals = square_visuals(config, [IMAGE] * config.text_config.num_image_tokens)
        return replace(visuals, extra=lambda ids: {"token_type_ids": ids * 0})  # 0: all of it is prefix
