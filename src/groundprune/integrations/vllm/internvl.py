"""InternVL in transformers' format, pruned inside of vLLM. Videos lose nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from vllm.model_executor.models.interfaces import SupportsMRoPE
from vllm.model_executor.models.interns1 import (
    InternS1DummyInputsBuilder,
    InternS1ForConditionalGeneration,
    InternS1MultiModalProcessor,
    InternS1ProcessingInfo,
)
from vllm.multimodal import MULTIMODAL_REGISTRY

from groundprune.integrations.vllm.processors import PrunedInfo, PrunedProcessor
from groundprune.integrations.vllm.pruned import Pruned
from groundprune.integrations.vllm.tiled import TILES


class Info(PrunedInfo, InternS1ProcessingInfo):
    """InternVL's, pruned."""

    def get_num_image_tokens(self, *, mm_kwargs: Mapping[str, object], **about: Any) -> int:
        # The processor cuts tiles unless it is told not to; vLLM asks its image processor, which does not by itself,
        # and would leave an encoder's budget for one tile.
        return super().get_num_image_tokens(mm_kwargs={"crop_to_patches": True, **mm_kwargs}, **about)


class Processor(PrunedProcessor, InternS1MultiModalProcessor):
    """InternVL's, pruned."""


@MULTIMODAL_REGISTRY.register_processor(Processor, info=Info, dummy_inputs=InternS1DummyInputsBuilder)
class PrunedInternVL(Pruned, InternS1ForConditionalGeneration, SupportsMRoPE):
    """As `PrunedLlava`. vLLM serves transformers' InternVL with the class of Intern-S1."""

    vision_tower: nn.Module

    def tower_attention(self) -> nn.Module:
        blocks = self.vision_tower.get_submodule("encoder.layer")
        return list(blocks.children())[-1].get_submodule("attention.attn")

    def arguments(self, images: Any) -> dict[str, Any]:
        return {"pixel_values": images["pixel_values"], TILES: images["num_patches"]}

    def encoded(self, images: Any) -> Sequence[Tensor]:
        stock: Any = super(Pruned, self)
        return stock._process_vision_input(images)

    def _process_vision_input(self, image_input: Any) -> tuple[Tensor, ...]:
        if image_input["type"] == "pixel_values":
            return tuple(self._process_image_input(image_input))
        return tuple(self.with_all(video) for video in super()._process_vision_input(image_input))
