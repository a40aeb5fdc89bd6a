"""What the Qwen-VL families share: images and videos, packed towers that merge patches, three position axes."""

from __future__ import annotations

import inspect
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from groundprune.errors import GroundPruneError
from groundprune.families.base import Family
from groundprune.families.tiny_parts import IMAGE, MARKS, PATCH, VIDEO, Kinds, TinyVisuals, text_sizes
from groundprune.tokens.layout import VisualUnit

ARGUMENTS = {"image": ("pixel_values", "image_grid_thw"), "video": ("pixel_values_videos", "video_grid_thw")}
VISION_START, VISION_END = MARKS[0], MARKS[1]
# Of Qwen2.5-VL and Qwen3-VL: the shape of an answer is given, as in the cookbook of Qwen3-VL.
POINT_PROMPT = (
    'Locate "{expression}" with a point, and report its coordinates in JSON format like this: {"point_2d": [x, y]}'
)
TINY_GRIDS = [("image", (1, 6, 10)), ("image", (1, 8, 4)), ("video", (3, 4, 6))]  # time, height, width in patches


class Qwen(Family):
    """The patches of all images (frames) follow each other, 2 x 2 that make a token side by side.

    A video is one unit, a tile per temporal step.
    """

    tower_path = "visual"
    position_axes = 3
    tiny_tower: ClassVar[dict[str, Any]]  # of a tiny config: what is special to the tower,
    mrope_section: ClassVar[tuple[int, ...]] = (2, 3, 3)  # how the axes share the 8 frequencies of a head,
    tiny_text: ClassVar[dict[str, Any]] = {"head_dim": 16}  # and to the LLM

    def token_ids(self, config: Any) -> dict[str, int]:
        return {"image": config.image_token_id, "video": config.video_token_id}

    def positions(self, base: nn.Module, inputs: dict[str, Any]) -> Tensor:
        ids, given = inputs["input_ids"], inputs.get("position_ids")
        if given is None:
            given = _three_axes(base, inputs)
        if given is None:  # words alone: the model counts columns on each axis
            given = torch.arange(ids.shape[1], device=ids.device)[None]
        # `generate` puts a row of plain text positions before the three.
        axes = given[None] if given.ndim == 2 else given[-3:]
        return axes.expand(3, ids.shape[0], -1)

    def grid_columns(self, config: Any, inputs: dict[str, Any]) -> int | None:
        grids = [inputs[name] for _, name in ARGUMENTS.values() if inputs.get(name) is not None]
        return sum(int(grid.prod(-1).sum()) for grid in grids) // config.vision_config.spatial_merge_size**2

    def units(self, base: Any, modality: str, arguments: dict[str, Any]) -> list[VisualUnit]:
        pixels, grid = (arguments[name] for name in ARGUMENTS[modality])
        merge = base.config.vision_config.spatial_merge_size
        return [
            VisualUnit.grid(height // merge, width // merge, patches, tiles=time)
            for patches, (time, height, width) in zip(
                pixels.split(grid.prod(-1).tolist()), grid.tolist(), strict=True
            )
        ]

    def feature_layer(self, config: Any) -> int:
        return config.vision_config.depth - 1

    def to_tokens(self, base: Any, value: Tensor, modality: str, arguments: dict[str, Any]) -> list[Tensor]:
        grid, merged = arguments[ARGUMENTS[modality][1]], base.config.vision_config.spatial_merge_size**2
        tokens = value.unflatten(0, (-1, merged)).mean(1)
        return list(tokens.split((grid.prod(-1) // merged).tolist()))

    def tiny_config(self, layers: int = 4, **options: Any) -> Any:
        from transformers import AutoConfig

        rope = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": list(self.mrope_section)}
        text = {**text_sizes(layers), "rope_parameters": rope, **self.tiny_text}
        return AutoConfig.for_model(
            self.name, text_config=text, image_token_id=IMAGE, video_token_id=VIDEO,
            vision_config={"depth": 3, "num_heads": 4, "patch_size": PATCH, **self.tiny_tower},
            vision_start_token_id=VISION_START, vision_end_token_id=VISION_END,
        )  # fmt: skip

    def tiny_visuals(self, config: Any) -> TinyVisuals:
        vision = config.vision_config
        values = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2

        def encode(kinds: Kinds, generator: torch.Generator) -> dict[str, Tensor]:
            found: dict[str, Tensor] = {}
            for modality, (pixels, grid) in ARGUMENTS.items():
                grids = [TINY_GRIDS[kind][1] for row in kinds for kind in row if TINY_GRIDS[kind][0] == modality]
                if grids:
                    found[grid] = torch.tensor(grids)
                    count = int(found[grid].prod(-1).sum())
                    found[pixels] = torch.randn(count, values, generator=generator)
            return found

        def extra(ids: Tensor) -> dict[str, Tensor]:
            return {"mm_token_type_ids": (ids == IMAGE) + 2 * (ids == VIDEO)}

        tokens = [self.tiny_tokens(modality, *grid) for modality, grid in TINY_GRIDS]
        return TinyVisuals(tokens, encode, extra)

    def tiny_tokens(self, modality: str, time: int, height: int, width: int) -> list[int]:
        """What stands for an image or video of time x height x width patches."""
        placeholder = IMAGE if modality == "image" else VIDEO
        return [VISION_START, *[placeholder] * (time * height * width // 4), VISION_END]


def _three_axes(base: Any, inputs: dict[str, Any]) -> Tensor | None:
    """As the model makes them of a first turn; not by `compute_3d_position_ids`, which leaves its offset behind."""
    if all(inputs.get(grid) is None for _, grid in ARGUMENTS.values()):
        return None
    if inputs.get("mm_token_type_ids") is None:
        # Stock `forward` of most Qwens refuses that too; stock `generate` counts columns, which no model learnt.
        raise GroundPruneError(
            "these inputs hold grids of images or videos and no mm_token_type_ids, without which there are no ids of "
            "three axes: give all that the processor gives, or position_ids"
        )
    names = inspect.signature(base.get_rope_index).parameters
    return base.get_rope_index(**{name: inputs[name] for name in names if inputs.get(name) is not None})[0]
