"""LLaVA-1.5 and its kin, pruned inside of vLLM."""

from __future__ import annotations

from torch import nn
from vllm.model_executor.models.interfaces import SupportsMRoPE
from vllm.model_executor.models.llava import (
    LlavaDummyInputsBuilder,
    LlavaForConditionalGeneration,
    LlavaMultiModalProcessor,
    LlavaProcessingInfo,
)
from vllm.model_executor.models.utils import WeightsMapper
from vllm.multimodal import MULTIMODAL_REGISTRY

from groundprune.integrations.vllm.processors import PrunedInfo, PrunedProcessor
from groundprune.integrations.vllm.pruned import Pruned

# transformers 5 writes a CLIP or SigLIP tower without the level that vLLM's class has.
_PARTS = ("embeddings.", "encoder.", "pre_layrnorm.", "post_layernorm.")
TOWER_NAMES = WeightsMapper(
    orig_to_new_prefix={
        f"{before}vision_tower.{part}": f"vision_tower.vision_model.{part}"
        for before in ("model.", "")
        for part in _PARTS
    }
)


class Info(PrunedInfo, LlavaProcessingInfo):
    """LLaVA's, pruned."""


class Processor(PrunedProcessor, LlavaMultiModalProcessor):
    """LLaVA's, pruned."""


class PrunedClip(Pruned):
    """Mixin: a CLIP or SigLIP tower, of which vLLM builds the blocks up to the one that the LLM reads."""

    vision_tower: nn.Module

    def tower_attention(self) -> nn.Module:
        blocks = self.vision_tower.get_submodule("vision_model.encoder.layers")
        return list(blocks.children())[-1].get_submodule("self_attn.attn")


@MULTIMODAL_REGISTRY.register_processor(Processor, info=Info, dummy_inputs=LlavaDummyInputsBuilder)
class PrunedLlava(PrunedClip, LlavaForConditionalGeneration, SupportsMRoPE):
    """The runner's table of positions is M-RoPE's; the language model's rotary embedding is its own."""

    hf_to_vllm_mapper = TOWER_NAMES | LlavaForConditionalGeneration.hf_to_vllm_mapper
