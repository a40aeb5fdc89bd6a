"""Qwen2-VL (arXiv 2409.12191): any resolution, M-RoPE, each frame of a video attends within itself."""

from __future__ import annotations

from typing import Any, ClassVar

from groundprune.families.base import register_family
from groundprune.families.grounding import Grounding
from groundprune.families.llava import LLAVA_GROUNDING
from groundprune.families.qwen import Qwen


@register_family
class Qwen2VL(Qwen):
    """Boxes are said as <|box_start|>(x1,y1),(x2,y2)<|box_end|>, 0-1000; the object is named between ref tokens."""

    name = "qwen2_vl"
    model_types = ("qwen2_vl",)
    grounding = Grounding(
        rec_prompt="Detect the bounding box of <|object_ref_start|>{expression}<|object_ref_end|>.",
        vqa_prompt=LLAVA_GROUNDING.vqa_prompt,
        codec="qwen2-vl",
        frame="original",
    )
    tiny_tower: ClassVar[dict[str, Any]] = {"embed_dim": 32, "hidden_size": 64, "mlp_ratio": 2}
