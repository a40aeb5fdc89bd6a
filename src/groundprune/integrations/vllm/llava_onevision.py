"""LLaVA-OneVision, pruned inside of vLLM. Videos lose nothing.

vLLM cuts each image into tiles, however many a prompt holds; transformers' chat template hands over the images of one
prompt together, and then none is cut.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from vllm.model_executor.models.interfaces import SupportsMRoPE
from vllm.model_executor.models.llava_onevision import (
    LlavaOnevisionDummyInputsBuilder,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionMultiModalProcessor,
    LlavaOnevisionProcessingInfo,
)
from vllm.multimodal import MULTIMODAL_REGISTRY

from groundprune.integrations.vllm.llava import TOWER_NAMES
from groundprune.integrations.vllm.llava_next import PrunedCrops
from groundprune.integrations.vllm.processors import PrunedInfo, PrunedProcessor


class Info(PrunedInfo, LlavaOnevisionProcessingInfo):
    """LLaVA-OneVision's, pruned."""


class Processor(PrunedProcessor, LlavaOnevisionMultiModalProcessor):
    """LLaVA-OneVision's, pruned."""


@MULTIMODAL_REGISTRY.register_processor(Processor, info=Info, dummy_inputs=LlavaOnevisionDummyInputsBuilder)
class PrunedLlavaOnevision(PrunedCrops, LlavaOnevisionForConditionalGeneration, SupportsMRoPE):
    """As `PrunedLlavaNext`."""

    hf_to_vllm_mapper = TOWER_NAMES | LlavaOnevisionForConditionalGeneration.hf_to_vllm_mapper

    def _merge_image_patch_embeddings(self, image_size: Tensor, patch_embeddings: Tensor, **options: Any) -> Tensor:
        # vLLM's own class takes every checkpoint's limit for "anyres_max_9".
        options["vision_aspect_ratio"] = self.config.vision_aspect_ratio
        return super()._merge_image_patch_embeddings(image_size, patch_embeddings, **options)

    def _process_video_pixels(self, inputs: Any) -> list[Tensor]:
        # Videos of different lengths come each in a batch of their own.
        return [self.with_all(video.flatten(0, -2)) for video in super()._process_video_pixels(inputs)]
