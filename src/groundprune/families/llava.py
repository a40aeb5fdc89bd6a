"""LLaVA-1.5 (arXiv 2310.03744) and every LlavaForConditionalGeneration with a CLIP tower.

One square image is rows x cols patches in raster order, one visual token each; the tower's CLS token is dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlavaImageProcessorPil

from groundprune.errors import Unservable
from groundprune.families.base import Family, Grounding, register_family, require_multiple
from groundprune.layout import VisualLayout
from groundprune.signals import Need


@register_family
class Llava(Family):
    """Serves pruning before the LLM; boxes are said as [x1, y1, x2, y2] of the padded square."""

    name = "llava"
    model_types = ("llava",)
    grounding = Grounding(
        rec_prompt="Please provide the bounding box coordinate of the region this sentence describes: {expression}",
        vqa_prompt="{question}\nAnswer the question using a single word or phrase.",
        codec="llava",
        frame="padded",
    )

    def layouts(self, config: Any, input_ids: Tensor, position: Tensor) -> list[VisualLayout]:
        side = config.vision_config.image_size // config.vision_config.patch_size
        visual = input_ids == self.image_token_id(config)
        return [self._layout(visual[b], position[:, b], side) for b in range(len(visual))]

    def _layout(self, visual: Tensor, position: Tensor, side: int) -> VisualLayout:
        column = visual.nonzero().squeeze(1)
        images = require_multiple(len(column), side * side)
        patch = torch.arange(side * side, device=column.device).repeat(images)
        return VisualLayout(
            column=column,
            image=torch.arange(images, device=column.device).repeat_interleave(side * side),
            tile=torch.zeros_like(column),
            row=patch // side,
            col=patch % side,
            is_patch=torch.ones_like(column, dtype=torch.bool),
            position=position[:, column],
            length=len(visual),
        )

    def tower(self, base: nn.Module) -> nn.Module:
        return base.get_submodule("vision_tower")

    def tower_layers(self, base: nn.Module) -> Sequence[nn.Module]:
        return list(self.tower(base).get_submodule("encoder.layers").children())

    def tower_attention_module(self, layer: nn.Module) -> nn.Module:
        return layer.get_submodule("self_attn")

    def feature_layer(self, config: Any) -> int:
        index = config.vision_feature_layer
        if not isinstance(index, int):
            raise Unservable(f"vision_feature_layer {index!r} joins several tower layers; one is supported")
        layers = config.vision_config.num_hidden_layers
        # hidden_states holds layers + 1 entries; entry i is the output of block i - 1.
        return layers + index if index < 0 else index - 1

    def to_tokens(self, value: Tensor, images: Sequence[int]) -> Tensor:
        return value[list(images), 1:].flatten(0, 1)

    def project(self, base: nn.Module, hidden: Tensor) -> Tensor:
        return base.get_submodule("multi_modal_projector")(hidden)

    def prepare_processor(self, processor: Any) -> Any:
        """Pads images to a square: the converted checkpoints crop instead, and lose the sides of the image."""
        old = processor.image_processor
        settings = ("size", "crop_size", "resample", "image_mean", "image_std", "rescale_factor")
        given = {name: getattr(old, name) for name in settings if getattr(old, name, None) is not None}
        processor.image_processor = LlavaImageProcessorPil(**given, do_pad=True)
        return processor

    def check(self, config: Any, need: Need) -> None:
        if config.vision_feature_select_strategy != "default":
            raise Unservable(
                f"vision_feature_select_strategy {config.vision_feature_select_strategy!r} is not supported "
                "(allowed: 'default', which drops the CLS token)"
            )
        if need.signal == "llm":
            raise Unservable(f"signals inside of the LLM are not served before it (asked for: {need})")
        if config.vision_config.model_type != "clip_vision_model" and need.signal.startswith(("tower", "clip")):
            raise Unservable(
                f"the signal '{need}' needs a CLIP vision tower; this model has {config.vision_config.model_type!r}"
            )
