"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL, pruned inside of vLLM: images and videos."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
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

from groundprune.integrations.vllm.image_pruning import ImagePruning, pack
from groundprune.integrations.vllm.pruned import Pruned
from groundprune.integrations.vllm.spans import Span
from groundprune.integrations.vllm.video_processors import PrunedVideoInfo, PrunedVideoProcessor
from groundprune.integrations.vllm.video_pruning import VideoPruning, as_image, video_slots


class PrunedQwen(Pruned):
    """Mixin: a packed tower, and three axes that are the model's own."""

    prunes: ClassVar[type[ImagePruning]] = VideoPruning

    visual: nn.Module
    language_model: Any

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

    # Videos

    def video_tokens(self, video: Mapping[str, Any]) -> list[int]:
        """What stands for a video in the unpruned prompt. video: elements with `data`, as vLLM preprocessed it."""
        merge = self.config.vision_config.spatial_merge_size
        return [self.config.video_token_id] * (int(video["video_grid_thw"].data.prod()) // merge**2)

    def _process_video_input(self, video_input: Any) -> list[Tensor]:
        """[slots, C + digits] of each video: of the tokens that stay, and of the text between them."""
        images = {
            "type": "pixel_values", "pixel_values": video_input["pixel_values_videos"],
            "image_grid_thw": video_input["video_grid_thw"],
        }  # fmt: skip
        known = {name: video_input.get(name) for name in ("video_grid_thw", "second_per_grid_ts", "timestamps")}
        found = []
        for i, (_, mine, kept) in enumerate(self.chosen(images)):
            video = {name: SimpleNamespace(data=of[i]) for name, of in known.items() if of is not None}
            found.append(self._packed_video(video, mine, kept))
        return found

    def _packed_video(self, video: Mapping[str, Any], features: Tensor, kept: Tensor) -> Tensor:
        tokens = self.video_tokens(video)
        slots = video_slots(tokens, self.config.video_token_id, kept)
        alone = SimpleNamespace(
            modality="video", data=video, mm_position=SimpleNamespace(offset=0, length=len(tokens))
        )
        position, _ = self.unpruned_positions(tokens, [alone])
        offsets = position.to(slots.device)[:, slots]
        whole = features if len(tokens) == len(features) else self._with_text(tokens, features)
        return pack(whole[slots], torch.zeros_like(offsets) if self.pruning.placed_early else offsets)

    def _with_text(self, tokens: Sequence[int], features: Tensor) -> Tensor:
        """[L, C]: the features of a video, and between them embeddings of text, which has none for later layers."""
        ids = torch.tensor(tokens, device=features.device)
        own, text = ids == self.config.video_token_id, self.language_model.embed_input_ids(ids)
        whole = features.new_zeros(len(tokens), features.shape[1])
        whole[:, : text.shape[1]] = text
        return whole.masked_scatter(own[:, None], features)

    def _span(self, feature: Any) -> Span:
        if feature.modality != "video":
            return super()._span(feature)
        tokens, pruning, kept = self.video_tokens(feature.data), self.pruning, None
        if pruning.settled:
            (unit,) = pruning.units(pruning.arguments_of(as_image(feature.data)))
            kept = video_slots(tokens, self.config.video_token_id, pruning.settled_kept(unit))
        return Span(feature.mm_position.offset, feature.mm_position.length, len(tokens), kept, tokens)


class Info2(PrunedVideoInfo, Qwen2VLProcessingInfo):
    """Qwen2-VL's, pruned."""


class Processor2(PrunedVideoProcessor, Qwen2VLMultiModalProcessor):
    """Qwen2-VL's, pruned."""


@MULTIMODAL_REGISTRY.register_processor(Processor2, info=Info2, dummy_inputs=Qwen2VLDummyInputsBuilder)
class PrunedQwen2VL(PrunedQwen, Qwen2VLForConditionalGeneration):
    """Qwen2-VL, pruned."""


class Info25(PrunedVideoInfo, Qwen2_5_VLProcessingInfo):
    """Qwen2.5-VL's, pruned."""

    def interval(self, video: Mapping[str, Any]) -> float:
        return self.get_hf_config().vision_config.tokens_per_second * float(video["second_per_grid_ts"].data)


class Processor25(PrunedVideoProcessor, Qwen2_5_VLMultiModalProcessor):
    """Qwen2.5-VL's, pruned."""


@MULTIMODAL_REGISTRY.register_processor(Processor25, info=Info25, dummy_inputs=Qwen2_5_VLDummyInputsBuilder)
class PrunedQwen25VL(PrunedQwen, Qwen2_5_VLForConditionalGeneration):
    """Qwen2.5-VL, pruned."""


class Info3(PrunedVideoInfo, Qwen3VLProcessingInfo):
    """Qwen3-VL's, pruned: its frames stand one behind the other, each behind text with its time."""

    def moved(self, video: Mapping[str, Any], tokens: Sequence[int]) -> int:
        time, rows, cols = self.grid(video)
        return len(tokens) + time * (max(rows, cols) - rows * cols)

    def text_tokens(self, most: int) -> int:
        processor = self.get_video_processor()
        frames = min(most, processor.max_frames // processor.temporal_patch_size)
        return frames * (2 + len(self.get_tokenizer().encode("<9999.9 seconds>", add_special_tokens=False)))


class Processor3(PrunedVideoProcessor, Qwen3VLMultiModalProcessor):
    """Qwen3-VL's, pruned."""


@MULTIMODAL_REGISTRY.register_processor(Processor3, info=Info3, dummy_inputs=Qwen3VLDummyInputsBuilder)
class PrunedQwen3VL(PrunedQwen, Qwen3VLForConditionalGeneration):
    """Qwen3-VL, pruned: the features for several layers of its LLM are those of the kept tokens."""

    def video_tokens(self, video: Mapping[str, Any]) -> list[int]:
        frames = video["timestamps"].data
        spelled: Any = Qwen3VLMultiModalProcessor.get_video_repl(
            tokens_per_frame=[len(super().video_tokens(video)) // len(frames)] * len(frames),
            timestamps=frames,
            tokenizer=self._tokenizer,
            vision_start_token_id=self.config.vision_start_token_id,
            vision_end_token_id=self.config.vision_end_token_id,
            video_token_id=self.config.video_token_id,
        )
        return spelled.full
