"""LLaVA-NeXT, pruned inside of vLLM."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from vllm.model_executor.models.interfaces import SupportsMRoPE
from vllm.model_executor.models.llava import LlavaDummyInputsBuilder
from vllm.model_executor.models.llava_next import (
    LlavaNextForConditionalGeneration,
    LlavaNextMultiModalProcessor,
    LlavaNextProcessingInfo,
)
from vllm.multimodal import MULTIMODAL_REGISTRY

from groundprune.integrations.vllm.llava import TOWER_NAMES, PrunedClip
from groundprune.integrations.vllm.processors import PrunedInfo, PrunedProcessor


class Info(PrunedInfo, LlavaNextProcessingInfo):
    """LLaVA-NeXT's, pruned."""


class Processor(PrunedProcessor, LlavaNextMultiModalProcessor):
    """LLaVA-NeXT's, pruned."""


class PrunedCrops(PrunedClip):
    """Mixin: several crops of an image. Newlines are no patches and stay."""

    def arguments(self, images: Any) -> dict[str, Any]:
        # Images that were preprocessed together have the same number of crops, the last of some empty.
        padded, sizes = list(images["pixel_values"]), images["image_sizes"]
        family: Any = self.pruning.family
        counts = family.crops(self.pruning.base, {"image_sizes": sizes})
        real = torch.cat([torch.arange(len(crops)) < count for crops, count in zip(padded, counts, strict=True)])
        crops = [crops[:count] for crops, count in zip(padded, counts, strict=True)]
        return {"pixel_values": torch.cat(crops), "image_sizes": sizes, "real": real}

    def of_images(self, value: Tensor, arguments: Mapping[str, Any]) -> Tensor:
        return value[arguments["real"].to(value.device)]


@MULTIMODAL_REGISTRY.register_processor(Processor, info=Info, dummy_inputs=LlavaDummyInputsBuilder)
class PrunedLlavaNext(PrunedCrops, LlavaNextForConditionalGeneration, SupportsMRoPE):
    """As `PrunedLlava`."""

    hf_to_vllm_mapper = TOWER_NAMES | LlavaNextForConditionalGeneration.hf_to_vllm_mapper
