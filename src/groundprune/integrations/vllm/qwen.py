"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL, pruned inside of vLLM. Videos lose nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from vllm.model_executor.models.qwen2_5_vl import (
    Qwen2_5_VLDummyInputsBuilder,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLMultiModalProcessor,
    Qwen2_5_VLProcessingInfo,
)
from vllm.model_executor.models.qwen2_vl import (
    Qwen2VLDummyInputsBuilder,
    Qwen2VLForConditionalGeneration,
    Qwen2VLMultiModalProcessor,
    Qwen2VLProcessingInfo,
)
from vllm.model_executor.models.qwen3_vl import (
    Qwen3VLDummyInputsBuilder,
    Qwen3VLForConditionalGeneration,
    Qwen3VLMultiModalProcessor,
    Qwen3VLProcessingInfo,
)
from vllm.multimodal import MULTIMODAL_REGISTRY

from groundprune.integrations.vllm.processors import PrunedInfo, PrunedProcessor
from groundprune.integrations.vllm.pruned import Pruned


class PrunedQwen(Pruned):
    """Mixin: a packed tower, and three axes that are the model's own."""

    visual: nn.Module

    def tower_attention(self) -> nn.Module:
        return list(self.visual.get_submodule("blocks").children())[-1].get_submodule("attn.attn")

    def arguments(self, images: Any) -> dict[str, Any]:
        return {name: images[name] for name in ("pixel_values", "image_grid_thw")}

    def lengths(self, arguments: Mapping[str, Any]) -> list[int]:
        # The last block of each tower attends within a frame.
        grid = arguments["image_grid_thw"]
        return grid[:, 1:].prod(-1).repeat_interleave(grid[:, 0]).tolist()

    def unpruned_positions(self, tokens: list[int], features: Sequence[Any]) -> tuple[Tensor, int]:
        stock: Any = super(Pruned, self)
        return stock.get_mrope_input_positions(tokens, features)

    def _process_video_input(self, video_input: Any) -> list[Tensor]:
        own: Any = super()
        return [self.with_all(each) for each in own._process_video_input(video_input)]


class Info2(PrunedInfo, Qwen2VLProcessingInfo):
    """Qwen2-VL's, pruned."""


class Processor2(PrunedProcessor, Qwen2VLMultiModalProcessor):
    """Qwen2-VL's, pruned."""


@MULTIMODAL_REGISTRY.register_processor(Processor2, info=Info2, dummy_inputs=Qwen2VLDummyInputsBuilder)
class PrunedQwen2VL(PrunedQwen, Qwen2VLForConditionalGeneration):
    """Qwen2-VL, pruned."""


class Info25(PrunedInfo, Qwen2_5_VLProcessingInfo):
    """Qwen2.5-VL's, pruned."""


class Processor25(PrunedProcessor, Qwen2_5_VLMultiModalProcessor):
    """Qwen2.5-VL's, pruned."""


@MULTIMODAL_REGISTRY.register_processor(Processor25, info=Info25, dummy_inputs=Qwen2_5_VLDummyInputsBuilder)
class PrunedQwen25VL(PrunedQwen, Qwen2_5_VLForConditionalGeneration):
    """Qwen2.5-VL, pruned."""


class Info3(PrunedInfo, Qwen3VLProcessingInfo):
    """Qwen3-VL's, pruned."""


class Processor3(PrunedProcessor, Qwen3VLMultiModalProcessor):
    """Qwen3-VL's, pruned."""


@MULTIMODAL_REGISTRY.register_processor(Processor3, info=Info3, dummy_inputs=Qwen3VLDummyInputsBuilder)
class PrunedQwen3VL(PrunedQwen, Qwen3VLForConditionalGeneration):
    """Qwen3-VL, pruned: the features for several layers of its LLM are those of the kept tokens."""
