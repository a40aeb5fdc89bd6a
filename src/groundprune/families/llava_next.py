"""LLaVA-NeXT (LLaVA-1.6): the whole image, then tiles of it at a higher resolution ("anyres").

The tower sees every crop as a square of side x side patches, CLS dropped. The LLM reads the whole image first; then
the tiles joined to one grid, the padding around it cut away, and a newline token at the end of each of its rows
(`pack_image_features`, "spatial_unpad"). What is what is found by sending markers through that very function.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from groundprune.families.base import Family, register_family
from groundprune.families.llava import LLAVA_GROUNDING
from groundprune.families.tiny_parts import IMAGE, PATCH, Kinds, TinyVisuals, tiny_clip, tiny_llama
from groundprune.tokens.layout import VisualUnit

TINY_SIDE = 4  # patches of a tiny tower


@register_family
class LlavaNext(Family):
    """One unit an image: tile 0 and crop 0 are the whole of it, tile 1 is all of the high-resolution grid."""

    name = "llava_next"
    model_types = ("llava_next",)
    # The padded square is LLaVA-1.5's frame; whether 1.6 was trained on it is disputed (haotian-liu/LLaVA, issue
    # 1833). A checkpoint may name another in its grounding.json.
    grounding = LLAVA_GROUNDING
    unprojectable = None
    cropped = True

    def crops(self, base: Any, arguments: dict[str, Any]) -> list[int]:
        """How many crops of each image the tower sees."""
        from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

        pinpoints, side = base.config.image_grid_pinpoints, base.config.vision_config.image_size
        return [image_size_to_num_patches(size, pinpoints, side) for size in arguments["image_sizes"]]

    def pack(self, base: Any, crops: list[Tensor], newline: Tensor, arguments: dict[str, Any]) -> list[Tensor]:
        """Per image [crops, side^2, C] -> [P, C], as the model packs its features. newline: [C]."""
        strategy = base.config.vision_feature_select_strategy
        return base.pack_image_features(crops, arguments["image_sizes"], strategy, image_newline=newline)[0]

    def weightless(self, config: Any) -> Any:
        from transformers import LlavaNextModel

        base = super().weightless(config)
        base.pack_image_features = functools.partial(LlavaNextModel.pack_image_features, base)
        return base

    def units(self, base: Any, modality: str, arguments: dict[str, Any]) -> list[VisualUnit]:
        pixels, counts, side = arguments["pixel_values"], self.crops(base, arguments), tower_side(base.config)
        # Images with fewer crops than another of the batch are padded with empty ones.
        padded = pixels if pixels.ndim == 5 else pixels.split(counts)
        images = [image[:n] for image, n in zip(padded, counts, strict=True)]
        across = [self.across(base, size) for size in arguments["image_sizes"]]
        # Of each patch: 0 (a newline: 1), and the row and column of its crop in the grid of crops.
        places = [torch.arange(n) - 1 for n in counts]
        crops = [torch.stack([0 * p, p // w, p % w], -1).float() for p, w in zip(places, across, strict=True)]
        markers = [crop[:, None].expand(-1, side**2, -1) for crop in crops]
        packed = self.pack(base, markers, torch.ones(3), arguments)
        return [_unit(*found, side) for found in zip(packed, across, images, strict=True)]

    def across(self, base: Any, size: Tensor) -> int:
        """How many crops of an image of this (height, width) stand side by side."""
        from transformers.models.llava_next.modeling_llava_next import get_anyres_image_grid_shape

        side = base.config.vision_config.image_size
        return get_anyres_image_grid_shape(size, base.config.image_grid_pinpoints, side)[1]

    def to_tokens(self, base: Any, value: Tensor, modality: str, arguments: dict[str, Any]) -> list[Tensor]:
        patches = self.patches(base, value)
        crops = list(patches.split(self.crops(base, arguments)))
        packed = self.pack(base, crops, patches.new_zeros(patches.shape[-1]), arguments)
        return [image.unflatten(-1, value.shape[2:]) for image in packed]

    def patches(self, base: Any, value: Tensor) -> Tensor:
        """[crops, T, ...] -> [crops, side^2, C], without special tokens, channels flat."""
        return value[:, 1 if self.tower_kind(base.config).cls else 0 :].flatten(2)

    def tiny_config(self, layers: int = 4, **options: Any) -> Any:
        from transformers import LlavaNextConfig

        return LlavaNextConfig(
            vision_config=tiny_clip(TINY_SIDE), text_config=tiny_llama(layers), image_token_index=IMAGE,
            vision_feature_layer=-2, image_grid_pinpoints=tiny_pinpoints(),
        )  # fmt: skip

    def tiny_visuals(self, config: Any) -> TinyVisuals:
        # Of 2 x 2 tiles 8 x 6 patches are no padding, of 1 x 2 tiles 2 x 8.
        return anyres_visuals({(32, 20): 16 + 8 * (6 + 1), (10, 32): 16 + 2 * (8 + 1)})


def tiny_pinpoints() -> list[list[int]]:
    """Of a tiny model: resolutions of 1 x 2, 2 x 1 and 2 x 2 tiles."""
    crop = TINY_SIDE * PATCH
    return [[crop, 2 * crop], [2 * crop, crop], [2 * crop, 2 * crop]]


def anyres_visuals(tokens: dict[tuple[int, int], int]) -> TinyVisuals:
    """Images of these (height, width), all of less than 5 crops, and how many tokens each is."""
    sizes, crop = list(tokens), TINY_SIDE * PATCH

    def encode(kinds: Kinds, generator: torch.Generator) -> dict[str, Tensor]:
        size = torch.tensor([sizes[kind] for row in kinds for kind in row])
        return {
            "pixel_values": torch.randn(len(size), 5, 3, crop, crop, generator=generator),
            "image_sizes": size,
        }

    return TinyVisuals([[IMAGE] * count for count in tokens.values()], encode)


def tower_side(config: Any) -> int:
    """Patches that a side of a crop holds."""
    return config.vision_config.image_size // config.vision_config.patch_size


def _unit(marker: Tensor, across: int, pixels: Tensor, side: int) -> VisualUnit:
    """marker: [P, 3], see `LlavaNext.units`; interpolated where the patches are."""
    is_patch, place = marker[:, 0] == 0, marker[side**2 :, 1:].round().long()
    whole, rest = VisualUnit.grid(side, side, pixels), is_patch[side**2 :]
    width = len(rest) // max(1, int((~rest).sum()))  # of a very thin image no row is left
    cell = torch.arange(len(rest))
    return VisualUnit(
        tile=torch.cat([whole.tile, torch.full_like(cell, int(rest.any()))]),
        row=torch.cat([whole.row, (cell // width).where(rest, -1)]),
        col=torch.cat([whole.col, (cell % width).where(rest, -1)]),
        is_patch=is_patch,
        crop=torch.cat([whole.crop, (1 + place[:, 0] * across + place[:, 1]).where(rest, -1)]),
        overview=torch.cat([whole.overview, torch.zeros_like(rest)]),
        pixels=pixels,
    )
