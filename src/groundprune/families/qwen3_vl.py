"""Qwen3-VL (arXiv 2511.21631): features of several tower blocks reach the first LLM layers (DeepStack)."""

from __future__ import annotations

from typing import Any, ClassVar

from groundprune.families.base import register_family
from groundprune.families.grounding import Grounding
from groundprune.families.llava import LLAVA_GROUNDING
from groundprune.families.qwen import POINT_PROMPT, Qwen
from groundprune.families.tiny_parts import WORDS


@register_family
class Qwen3VL(Qwen):
    """A video is one unit; in the prompt text with its time stands before each frame.

    Boxes and points are said as JSON, "bbox_2d" and "point_2d" in 0-1000; the prompt for boxes is that of its
    cookbook.
    """

    name = "qwen3_vl"
    model_types = ("qwen3_vl",)
    grounding = Grounding(
        rec_prompt="Locate {expression}, report its bbox coordinates in JSON format.",
        vqa_prompt=LLAVA_GROUNDING.vqa_prompt,
        codec="bbox-2d-1000",
        frame="original",
        point_prompt=POINT_PROMPT,
        point_codec="point-2d-1000",
    )
    tiny_tower: ClassVar[dict[str, Any]] = {
        "hidden_size": 32, "intermediate_size": 64, "out_hidden_size": 64, "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0, 1],
    }  # fmt: skip
    mrope_section = (4, 2, 2)

    def tiny_tokens(self, modality: str, time: int, height: int, width: int) -> list[int]:
        frame = super().tiny_tokens(modality, 1, height, width)
        if modality == "image":
            return frame
        return [token for step in range(time) for token in (WORDS[step], WORDS[-1], *frame)]
