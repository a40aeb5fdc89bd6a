"""Mistral 3, pruned inside of vLLM."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from vllm.model_executor.models.interfaces import SupportsMRoPE
from vllm.model_executor.models.mistral3 import (
    Mistral3DummyInputsBuilder,
    Mistral3ForConditionalGeneration,
    Mistral3MultiModalProcessor,
    Mistral3ProcessingInfo,
)
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.multimodal.inputs import MultiModalFieldConfig

from groundprune.integrations.vllm.processors import PrunedInfo
from groundprune.integrations.vllm.spelled import IDS
from groundprune.integrations.vllm.spelling import PrunedSpelled, SpelledProcessor

SIZES = "image_sizes"


class Info(PrunedInfo, Mistral3ProcessingInfo):
    """Mistral 3's, pruned."""


class Processor(SpelledProcessor, Mistral3MultiModalProcessor):
    """Mistral 3's, pruned. An image's size outlives its pixels, see `ImagePruning.arguments_of`."""

    def _get_mm_fields_config(self, inputs: Any, options: Any) -> Mapping[str, Any]:
        own = super()._get_mm_fields_config(inputs, options)
        return {**own, SIZES: MultiModalFieldConfig.batched("image", keep_on_cpu=True)}


@MULTIMODAL_REGISTRY.register_processor(Processor, info=Info, dummy_inputs=Mistral3DummyInputsBuilder)
class PrunedMistral3(PrunedSpelled, Mistral3ForConditionalGeneration, SupportsMRoPE):
    """As `PrunedLlava`. Breaks and the end of an image stay where they stand between its rows."""

    vision_tower: nn.Module

    def tower_attention(self) -> nn.Module:
        blocks = self.vision_tower.get_submodule("transformer.layers")
        return list(blocks.children())[-1].get_submodule("attention.attn")

    def arguments(self, images: Any) -> dict[str, Any]:
        pixels = images["pixel_values"]
        sizes = torch.tensor([image.shape[-2:] for image in pixels])
        return {"pixel_values": pixels, SIZES: sizes, IDS: images[IDS]}

    def lengths(self, arguments: Mapping[str, Any]) -> list[int]:
        patch = self.config.vision_config.patch_size
        return (arguments[SIZES] // patch).prod(-1).tolist()
