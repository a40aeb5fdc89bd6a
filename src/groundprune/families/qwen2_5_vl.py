"""Qwen2.5-VL (arXiv 2502.13923): Qwen2-VL whose tower attends within windows in most blocks."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor
from transformers.vision_utils import get_vision_window_index

from groundprune.families.base import register_family
from groundprune.families.grounding import Grounding
from groundprune.families.llava import LLAVA_GROUNDING
from groundprune.families.qwen import ARGUMENTS, POINT_PROMPT, Qwen
from groundprune.tokens.sending import sent


@register_family
class Qwen25VL(Qwen):
    """Boxes and points are said as JSON, "bbox_2d" and "point_2d" in pixels of the resized image; the prompt for
    boxes is that of its cookbook.
    """

    name = "qwen2_5_vl"
    model_types = ("qwen2_5_vl",)
    grounding = Grounding(
        rec_prompt="Locate {expression}, output its bbox coordinates using JSON format.",
        vqa_prompt=LLAVA_GROUNDING.vqa_prompt,
        codec="bbox-2d-pixels",
        frame="original",
        point_prompt=POINT_PROMPT,
        point_codec="point-2d-pixels",
    )
    # Windows of 2 x 2 tokens.
    tiny_tower: ClassVar[dict[str, Any]] = {
        "hidden_size": 32, "intermediate_size": 64, "out_hidden_size": 64, "window_size": 16,
        "fullatt_block_indexes": [2],
    }  # fmt: skip

    def to_tokens(self, base: Any, value: Tensor, modality: str, arguments: dict[str, Any]) -> list[Tensor]:
        vision = base.config.vision_config
        # The tower sorts tokens by window, and keeps the patches of a token together.
        order, _ = get_vision_window_index(
            arguments[ARGUMENTS[modality][1]],
            spatial_merge_size=vision.spatial_merge_size,
            window_size=vision.window_size,
            patch_size=vision.patch_size,
        )
        merged = vision.spatial_merge_size**2
        raster = value.unflatten(0, (-1, merged))[sent(order.argsort(), value.device)].flatten(0, 1)
        return super().to_tokens(base, raster, modality, arguments)
