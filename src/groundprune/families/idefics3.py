"""Idefics3 (arXiv 2408.12637): each tile of an image a run of placeholders of its own, the whole image last.

The tower sees each tile as side x side patches without CLS; pixel shuffle joins each factor x factor of them to one
token. `<fake><row_1_col_1><image>...<fake><row_1_col_2><image>...` is closed by `<fake><global-img><image>...<fake>`;
a small image is the last alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from groundprune.families.base import Family, register_family
from groundprune.families.llava import LLAVA_GROUNDING
from groundprune.families.tiny_parts import IMAGE, MARKS, Kinds, TinyVisuals, tiny_llama, tower_sizes
from groundprune.families.towers import square_block_mean
from groundprune.tokens.layout import VisualUnit

_FAKE, _GLOBAL, _LINE, *_PLACES = MARKS  # of a tiny model


@register_family
class Idefics3(Family):
    """One unit a tile. Trained on no words for boxes: prompts and codec are LLaVA's, for want of its own."""

    name = "idefics3"
    model_types = ("idefics3",)
    unit_is_crop = True
    grounding = replace(LLAVA_GROUNDING, frame="original")
    tower_path = "vision_model"

    def units(self, base: Any, modality: str, arguments: dict[str, Any]) -> list[VisualUnit]:
        tiles = arguments["pixel_values"].flatten(0, 1)
        tiles = tiles[tiles.flatten(1).any(1)]  # rows with fewer tiles than another are padded with zeros
        side = tiles.shape[-1] // base.config.vision_config.patch_size // base.config.scale_factor
        return [VisualUnit.grid(side, side, tile) for tile in tiles]

    def images_of(self, ids: Tensor, columns: Sequence[Tensor]) -> list[int]:
        # What a tile is stands in the mark before it. A row ends with a whole image, so that its mark is known.
        marks = [int(ids[column[0] - 1]) for column in columns]
        return [marks[:k].count(marks[-1]) for k in range(len(columns))]

    def to_tokens(self, base: Any, value: Tensor, modality: str, arguments: dict[str, Any]) -> list[Tensor]:
        return list(square_block_mean(value, base.config.scale_factor))

    def tiny_config(self, layers: int = 4, side: int = 6, **options: Any) -> Any:
        from transformers import Idefics3Config, Idefics3VisionConfig

        return Idefics3Config(**tiny_sizes(Idefics3VisionConfig, layers, side))

    def tiny_visuals(self, config: Any) -> TinyVisuals:
        size, factor = config.vision_config.image_size, config.scale_factor
        run = [IMAGE] * (size // config.vision_config.patch_size // factor) ** 2
        grids = [(1, 2), (0, 0), (2, 1)]
        tiles = [rows * cols + 1 for rows, cols in grids]

        def tokens(rows: int, cols: int) -> list[int]:
            ids: list[int] = []
            for row in range(rows):
                for col in range(cols):
                    ids += [_FAKE, _PLACES[row * 2 + col], *run]
                ids.append(_LINE)
            return [*ids, *[_LINE] * bool(rows), _FAKE, _GLOBAL, *run, _FAKE]

        def encode(kinds: Kinds, generator: torch.Generator) -> dict[str, Tensor]:
            counts = [sum(tiles[kind] for kind in row) for row in kinds]
            pixels = torch.zeros(len(kinds), max(counts), 3, size, size)
            seen = torch.zeros(len(kinds), max(counts), size, size, dtype=torch.long)
            for row, count in enumerate(counts):
                pixels[row, :count] = torch.randn(count, 3, size, size, generator=generator)
                seen[row, :count] = 1
            return {"pixel_values": pixels, "pixel_attention_mask": seen}

        return TinyVisuals([tokens(rows, cols) for rows, cols in grids], encode)


def tiny_sizes(vision: type[Any], layers: int, side: int) -> dict[str, Any]:
    """Arguments of a tiny config with this kind of tower."""
    return {
        "vision_config": vision(**tower_sizes(side)).to_dict(), "text_config": tiny_llama(layers),
        "image_token_id": IMAGE, "scale_factor": 2,
    }  # fmt: skip
