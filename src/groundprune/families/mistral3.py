"""Mistral 3 (Mistral Small 3.1): a Pixtral tower (arXiv 2410.07073) at any resolution, 2 x 2 patches a token.

The patches of all images follow each other. In the prompt a break ends each row of placeholders; it is text.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from groundprune.families.base import Family, register_family
from groundprune.families.llava import LLAVA_GROUNDING
from groundprune.families.tiny_parts import (
    IMAGE,
    MARKS,
    PATCH,
    Kinds,
    TinyVisuals,
    text_sizes,
    tower_sizes,
)
from groundprune.families.towers import block_mean
from groundprune.tokens.layout import VisualUnit

BREAK, END = MARKS[0], MARKS[1]
TINY_SIZES = [(6, 10), (8, 4)]  # rows and columns of patches


@register_family
class Mistral3(Family):
    """No box language of its training is documented: LLaVA's wording, of the original image."""

    name = "mistral3"
    model_types = ("mistral3",)
    grounding = replace(LLAVA_GROUNDING, frame="original")

    def units(self, base: Any, modality: str, arguments: dict[str, Any]) -> list[VisualUnit]:
        pixels, merge = arguments["pixel_values"], base.config.spatial_merge_size
        units = []
        for image, (rows, cols) in zip(pixels, _patches(base.config, arguments), strict=True):
            patch = base.config.vision_config.patch_size
            # The batch is padded to its largest image.
            seen = image[:, : rows * patch, : cols * patch]
            units.append(VisualUnit.grid(rows // merge, cols // merge, seen))
        return units

    def to_tokens(self, base: Any, value: Tensor, modality: str, arguments: dict[str, Any]) -> list[Tensor]:
        sizes, merge = _patches(base.config, arguments), base.config.spatial_merge_size
        images = value.flatten(1).split([rows * cols for rows, cols in sizes])
        return [block_mean(image, rows, cols, merge) for image, (rows, cols) in zip(images, sizes, strict=True)]

    def tiny_config(self, layers: int = 4, **options: Any) -> Any:
        from transformers import Mistral3Config, PixtralVisionConfig

        return Mistral3Config(
            vision_config=PixtralVisionConfig(**tower_sizes(16)).to_dict(),
            text_config={"model_type": "mistral", **text_sizes(layers), "head_dim": 16, "sliding_window": None},
            image_token_index=IMAGE, vision_feature_layer=-1, spatial_merge_size=2,
        )  # fmt: skip

    def tiny_visuals(self, config: Any) -> TinyVisuals:
        def encode(kinds: Kinds, generator: torch.Generator) -> dict[str, Tensor]:
            sizes = torch.tensor([TINY_SIZES[kind] for row in kinds for kind in row]) * PATCH
            pixels = torch.zeros(len(sizes), 3, *sizes.amax(0).tolist())
            for image, (height, width) in zip(pixels, sizes.tolist(), strict=True):
                image[:, :height, :width] = torch.randn(3, height, width, generator=generator)
            return {"pixel_values": pixels, "image_sizes": sizes}

        tokens = []
        for rows, cols in TINY_SIZES:
            lines = [*[IMAGE] * (cols // 2), BREAK] * (rows // 2)
            tokens.append([*lines[:-1], END])
        return TinyVisuals(tokens, encode)


def _patches(config: Any, arguments: dict[str, Any]) -> list[tuple[int, int]]:
    """Rows and columns of patches of each image."""
    patch = config.vision_config.patch_size
    return [(int(height) // patch, int(width) // patch) for height, width in arguments["image_sizes"]]
