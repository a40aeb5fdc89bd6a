"""Idefics3 and SmolVLM, pruned inside of vLLM."""

from __future__ import annotations

from typing import Any

from torch import nn
from vllm.model_executor.models.idefics3 import (
    Idefics3DummyInputsBuilder,
    Idefics3ForConditionalGeneration,
    Idefics3MultiModalProcessor,
    Idefics3ProcessingInfo,
)
from vllm.model_executor.models.interfaces import SupportsMRoPE
from vllm.model_executor.models.smolvlm import SmolVLMForConditionalGeneration, SmolVLMProcessingInfo
from vllm.multimodal import MULTIMODAL_REGISTRY

from groundprune.integrations.vllm.processors import PrunedInfo
from groundprune.integrations.vllm.spelled import IDS
from groundprune.integrations.vllm.spelling import PrunedSpelled, SpelledProcessor


class Info(PrunedInfo, Idefics3ProcessingInfo):
    """Idefics3's, pruned."""


class Processor(SpelledProcessor, Idefics3MultiModalProcessor):
    """Idefics3's and SmolVLM's, pruned."""


class PrunedTiles(PrunedSpelled):
    """Mixin: an image is several tiles, between whose tokens marks stand."""

    model: nn.Module

    def tower_attention(self) -> nn.Module:
        blocks = self.model.get_submodule("vision_model.encoder.layers")
        return list(blocks.children())[-1].get_submodule("self_attn.attn")

    def arguments(self, images: Any) -> dict[str, Any]:
        # transformers' classes take a batch of prompts, vLLM's the tiles of all.
        return {"pixel_values": images["pixel_values"][None], IDS: images[IDS]}


@MULTIMODAL_REGISTRY.register_processor(Processor, info=Info, dummy_inputs=Idefics3DummyInputsBuilder)
class PrunedIdefics3(PrunedTiles, Idefics3ForConditionalGeneration, SupportsMRoPE):
    """As `PrunedLlava`."""


class SmolInfo(PrunedInfo, SmolVLMProcessingInfo):
    """SmolVLM's, pruned."""


@MULTIMODAL_REGISTRY.register_processor(Processor, info=SmolInfo, dummy_inputs=Idefics3DummyInputsBuilder)
class PrunedSmolVLM(PrunedTiles, SmolVLMForConditionalGeneration, SupportsMRoPE):
    """As `PrunedLlava`."""
