"""InternVL 2.5 and 3 (arXiv 2412.05271, 2504.10479): tiles of one image in one run of placeholders.

InternViT sees each tile as side x side patches, CLS dropped; pixel shuffle joins each 2 x 2 of them to one token. The
tiles of an image follow each other, the whole image as a thumbnail last: `<img><IMG_CONTEXT>...</img>`. A video is a
sequence of images to it.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from groundprune.families.base import Family, register_family
from groundprune.families.grounding import Grounding
from groundprune.families.tiny_parts import IMAGE, MARKS, Kinds, TinyVisuals, text_sizes, tower_sizes
from groundprune.families.towers import square_block_mean
from groundprune.tokens.layout import VisualUnit


@register_family
class InternVL(Family):
    """One unit a tile."""

    name = "internvl"
    model_types = ("internvl",)
    unit_is_crop = True
    grounding = Grounding(
        rec_prompt="Please provide the bounding box coordinate of the region this sentence describes: "
        "<ref>{expression}</ref>",
        vqa_prompt="{question}\nAnswer the question using a single word or phrase.",
        codec="internvl",
        frame="original",
    )

    def units(self, base: Any, modality: str, arguments: dict[str, Any]) -> list[VisualUnit]:
        pixels = arguments["pixel_values"].flatten(0, -4)  # vLLM has the tiles of an image in a batch of their own
        side = pixels.shape[-1] // base.config.vision_config.patch_size[0] // _factor(base.config)
        return [VisualUnit.grid(side, side, tile) for tile in pixels]

    def images_of(self, ids: Tensor, columns: Sequence[Tensor]) -> list[int]:
        starts = [bool(this[0] > before[-1] + 1) for before, this in itertools.pairwise(columns)]
        return [sum(starts[:k]) for k in range(len(columns))]

    def to_tokens(self, base: Any, value: Tensor, modality: str, arguments: dict[str, Any]) -> list[Tensor]:
        patches = torch.stack(super().to_tokens(base, value, modality, arguments))
        return list(square_block_mean(patches, _factor(base.config)))

    def tiny_config(self, layers: int = 4, side: int = 6, **options: Any) -> Any:
        from transformers import InternVLConfig, InternVLVisionConfig, Qwen2Config

        return InternVLConfig(
            vision_config=InternVLVisionConfig(**tower_sizes(side)).to_dict(),
            text_config=Qwen2Config(**text_sizes(layers)).to_dict(), image_token_id=IMAGE,
            image_seq_length=side**2 // 4,
        )  # fmt: skip

    def tiny_visuals(self, config: Any) -> TinyVisuals:
        tiles = [3, 1]  # two tiles and a thumbnail; a small image
        size = config.vision_config.image_size[0]

        def encode(kinds: Kinds, generator: torch.Generator) -> dict[str, Tensor]:
            total = sum(tiles[kind] for row in kinds for kind in row)
            return {"pixel_values": torch.randn(total, 3, size, size, generator=generator)}

        return TinyVisuals([[MARKS[0], *[IMAGE] * config.image_seq_length * n, MARKS[1]] for n in tiles], encode)


def _factor(config: Any) -> int:
    """Patches that a side of a token spans."""
    return round(1 / config.downsample_ratio)
