"""MiniGPT-v2 (arXiv 2310.09478): each visual token is a strip of 4 patches, so the grid has 4 times as many rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from groundprune.errors import Unservable
from groundprune.families.base import Grounding, register_family, require_multiple
from groundprune.families.llava import Llava
from groundprune.layout import VisualLayout
from groundprune.models.minigpt_v2 import PATCHES_PER_TOKEN
from groundprune.signals import Need


@register_family
class MiniGPTv2(Llava):
    """Tower signals are means over the 4 patches of a strip; the tower is EVA-CLIP, which has no text side here."""

    name = "minigpt-v2"
    model_types = ("minigpt_v2",)
    grounding = Grounding(
        rec_prompt="[refer] give me the location of {expression}",
        vqa_prompt="[vqa] Based on the image, respond to this question with a short answer: {question}",
        codec="minigpt-v2",
        frame="original",
    )

    def layouts(self, config: Any, input_ids: Tensor, position: Tensor) -> list[VisualLayout]:
        rows = config.vision_config.image_size // config.vision_config.patch_size
        cols = rows // PATCHES_PER_TOKEN
        found = []
        for b, visual in enumerate(input_ids == self.image_token_id(config)):
            column = visual.nonzero().squeeze(1)
            images = require_multiple(len(column), rows * cols)
            strip = torch.arange(rows * cols, device=column.device).repeat(images)
            found.append(
                VisualLayout(
                    column=column,
                    image=torch.arange(images, device=column.device).repeat_interleave(rows * cols),
                    tile=torch.zeros_like(column),
                    row=strip // cols,
                    col=strip % cols,
                    is_patch=torch.ones_like(column, dtype=torch.bool),
                    position=position[:, b, column],
                    length=len(visual),
                )
            )
        return found

    def to_tokens(self, value: Tensor, images: Sequence[int]) -> Tensor:
        patches = value[list(images), 1:]
        return patches.unflatten(1, (-1, PATCHES_PER_TOKEN)).float().mean(2).flatten(0, 1)

    def project(self, base: nn.Module, hidden: Tensor) -> Tensor:
        raise Unservable("no merging in the space of the tower: one token projects 4 patches at once")

    def prepare_processor(self, processor: Any) -> Any:
        return processor  # it squeezes images to a square, which changes no unit coordinate

    def check(self, config: Any, need: Need) -> None:
        if need.signal == "llm":
            raise Unservable(f"signals inside of the LLM are not served before it (asked for: {need})")
        if need.signal.startswith("clip"):
            raise Unservable(f"the signal '{need}' needs a CLIP vision tower; MiniGPT-v2's is EVA-CLIP")
