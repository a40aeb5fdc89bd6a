"""LLaVA-OneVision (arXiv 2408.03326): LLaVA-NeXT's crops under a SigLIP tower, and videos.

A high-resolution grid of more than N x side^2 patches ("anyres_max_N") is interpolated down to about that many; where
a prompt holds several images each is seen whole, without tiles. A frame of a video is ceil(side / 2)^2 tokens; one
newline ends the video.
"""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from groundprune.families.base import register_family
from groundprune.families.llava import LLAVA_GROUNDING
from groundprune.families.llava_next import TINY_SIDE, LlavaNext, anyres_visuals, tiny_pinpoints, tower_side
from groundprune.families.tiny_parts import IMAGE, PATCH, VIDEO, Kinds, TinyVisuals, text_sizes, tiny_siglip
from groundprune.tokens.layout import VisualUnit


@register_family
class LlavaOnevision(LlavaNext):
    """Boxes are said as [x1, y1, x2, y2] of the image as it is. One unit a video, one tile a frame."""

    name = "llava_onevision"
    model_types = ("llava_onevision",)
    grounding = replace(LLAVA_GROUNDING, frame="original")
    unprojectable = "{} interpolates what its projector gives"

    def token_ids(self, config: Any) -> dict[str, int]:
        return {"image": config.image_token_id, "video": config.video_token_id}

    def crops(self, base: Any, arguments: dict[str, Any]) -> list[int]:
        crops, images = super().crops(base, arguments), arguments.get("batch_num_images")
        if images is None:
            return crops
        alone = [n == 1 for n in torch.as_tensor(images).tolist() for _ in range(n)]
        return [n if tiled else 1 for n, tiled in zip(crops, alone, strict=True)]

    def pack(self, base: Any, crops: list[Tensor], newline: Tensor, arguments: dict[str, Any]) -> list[Tensor]:
        limit = arguments.get("vision_aspect_ratio") or base.config.vision_aspect_ratio
        sizes = arguments["image_sizes"]
        return base.pack_image_features(crops, sizes, image_newline=newline, vision_aspect_ratio=limit)[0]

    def weightless(self, config: Any) -> Any:
        from transformers import LlavaOnevisionModel

        base = super().weightless(config)
        base.pack_image_features = functools.partial(LlavaOnevisionModel.pack_image_features, base)
        return base

    def units(self, base: Any, modality: str, arguments: dict[str, Any]) -> list[VisualUnit]:
        if modality == "image":
            return super().units(base, modality, arguments)
        videos, side = arguments["pixel_values_videos"], math.ceil(tower_side(base.config) / 2)
        frames = [VisualUnit.grid(side, side, video, len(video)) for video in videos]
        return [_ended(unit) for unit in frames]

    def to_tokens(self, base: Any, value: Tensor, modality: str, arguments: dict[str, Any]) -> list[Tensor]:
        if modality == "image":
            return super().to_tokens(base, value, modality, arguments)
        pooled = base.apply_pooling(self.patches(base, value))
        videos = pooled.reshape(len(arguments["pixel_values_videos"]), -1, pooled.shape[-1])
        ended = torch.cat([videos, torch.zeros_like(videos[:, :1])], 1)
        return list(ended.unflatten(-1, value.shape[2:]))

    def tiny_config(self, layers: int = 4, tiles: int = 2, **options: Any) -> Any:
        from transformers import LlavaOnevisionConfig, Qwen2Config

        return LlavaOnevisionConfig(
            vision_config=tiny_siglip(TINY_SIDE), text_config=Qwen2Config(**text_sizes(layers)).to_dict(),
            image_token_index=IMAGE, video_token_index=VIDEO, image_grid_pinpoints=tiny_pinpoints(),
            vision_aspect_ratio=f"anyres_max_{tiles}",
        )  # fmt: skip

    def tiny_visuals(self, config: Any) -> TinyVisuals:
        # 8 x 6 patches are more than 1.1^2 * 2 * 16, and become 6 x 4; of 2 x 8 all stay. A video of 2 frames.
        images = anyres_visuals({(32, 20): 16 + 6 * (4 + 1), (10, 32): 16 + 2 * (8 + 1)})
        video = len(images.tokens)

        def encode(kinds: Kinds, generator: torch.Generator) -> dict[str, Tensor]:
            pictures = [[kind for kind in row if kind != video] for row in kinds]
            videos, crop = sum(row.count(video) for row in map(list, kinds)), TINY_SIDE * PATCH
            found = images.encode(pictures, generator) if any(pictures) else {}
            if videos:
                found["pixel_values_videos"] = torch.randn(videos, 2, 3, crop, crop, generator=generator)
            return found

        return TinyVisuals([*images.tokens, [VIDEO] * (2 * 4 + 1)], encode)


def _ended(unit: VisualUnit) -> VisualUnit:
    """With a newline after its last tile."""
    end = unit.tile.new_tensor([-1])
    return VisualUnit(
        torch.cat([unit.tile, unit.tile[-1:]]), torch.cat([unit.row, end]), torch.cat([unit.col, end]),
        torch.cat([unit.is_patch, end > 0]), torch.cat([unit.crop, end]), torch.cat([unit.overview, end > 0]),
        unit.pixels,
    )  # fmt: skip
