"""The map from tower patches to tokens, per family, written down by hand: the tests hold the layouts against it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from groundprune.families.tiny_parts import PATCH

Inputs = dict[str, Any]


@dataclass(frozen=True)
class Visual:
    """One visual of a batch: its kind (see `TinyVisuals`), its prompt row, and how many of each there are before it.

    nth: of the same modality, in the batch; in_row: of its crops, in its row; crop: of its crops, in the batch.
    """

    kind: int
    row: int
    nth: int
    in_row: int
    crop: int


@dataclass(frozen=True)
class Hand:
    """crops: how many the tower sees of each kind of visual. videos: which kinds are videos.

    patches: (kind, tile, row, col) of a token -> {(crop, row, col) of a patch: its weight}, crops of one visual.
    crop: the pixels [3, H, W] of one crop, a view. of_row: the encoder's inputs that are one prompt row's, given the
    visuals of the row.
    places: (kind, tile, row, col) of tokens to paint. newlines: how many tokens of each kind are no patches.
    """

    crops: list[int]
    patches: Callable[[int, int, int, int], dict[tuple[int, int, int], float]]
    crop: Callable[[Inputs, Visual, int], Tensor]
    of_row: Callable[[Inputs, list[Visual], list[int]], Inputs]
    places: list[tuple[int, int, int, int]]
    newlines: tuple[int, ...] = ()
    videos: tuple[int, ...] = ()

    def pixels(self, inputs: Inputs, visual: Visual, patch: tuple[int, int, int]) -> Tensor:
        """[3, PATCH, PATCH]: a view of the pixels of one patch."""
        crop, row, col = patch
        return self.crop(inputs, visual, crop)[:, row * PATCH : (row + 1) * PATCH, col * PATCH : (col + 1) * PATCH]

    def visuals(self, kinds: list[list[int]]) -> list[Visual]:
        """Of a batch, row by row."""
        found: list[Visual] = []
        for row, mine in enumerate(kinds):
            for i, kind in enumerate(mine):
                before = [visual for visual in found if (visual.kind in self.videos) == (kind in self.videos)]
                in_row = sum(self.crops[k] for k in mine[:i])
                found.append(Visual(kind, row, len(before), in_row, sum(self.crops[v.kind] for v in before)))
        return found


def one_to_one(kind: int, tile: int, row: int, col: int) -> dict[tuple[int, int, int], float]:
    return {(tile, row, col): 1.0}


def two_by_two(kind: int, tile: int, row: int, col: int) -> dict[tuple[int, int, int], float]:
    return {(tile, 2 * row + i, 2 * col + j): 0.25 for i in (0, 1) for j in (0, 1)}


def anyres(kind: int, tile: int, row: int, col: int) -> dict[tuple[int, int, int], float]:
    """Crops of 4 x 4 patches. Kind 0: 2 x 2 tiles, a column of padding at the left; kind 1: 1 x 2, a row on top."""
    if tile == 0:
        return {(0, row, col): 1.0}
    top, left, across = [(0, 1, 2), (1, 0, 2)][kind]
    row, col = row + top, col + left
    return {(1 + row // 4 * across + col // 4, row % 4, col % 4): 1.0}


def onevision(kind: int, tile: int, row: int, col: int) -> dict[tuple[int, int, int], float]:
    """As `anyres`, but kind 0 comes from 8 x 6 to 6 x 4 and each frame of kind 2 from 4 x 4 to 2 x 2, bilinear."""
    if kind == 2:
        return {(tile, 2 * row + i, 2 * col + j): 0.25 for i in (0, 1) for j in (0, 1)}
    if kind == 1 or tile == 0:
        return anyres(kind, tile, row, col)
    found: dict[tuple[int, int, int], float] = {}
    for r, down in between((row + 0.5) * 8 / 6 - 0.5):
        for c, right in between((col + 0.5) * 6 / 4 - 0.5):
            found |= dict.fromkeys(anyres(0, 1, r, c), down * right)
    return found


def between(place: float) -> list[tuple[int, float]]:
    whole = int(place)
    return [(whole, 1 + whole - place), (whole + 1, place - whole)]


def stacked(name: str = "pixel_values") -> Callable[[Inputs, Visual, int], Tensor]:
    """All crops of the batch in one tensor."""
    return lambda inputs, visual, crop: inputs[name][visual.crop + crop]


def of_crops(inputs: Inputs, mine: list[Visual], crops: list[int]) -> Inputs:
    first = mine[0].crop
    return {"pixel_values": inputs["pixel_values"][first : first + sum(crops[v.kind] for v in mine)]}


def of_images(inputs: Inputs, mine: list[Visual], crops: list[int]) -> Inputs:
    """Crops padded to those of the largest image; videos apart."""
    found: Inputs = {}
    for name in ("pixel_values", "image_sizes", "pixel_values_videos"):
        chosen = [v.nth for v in mine if (len(crops) > 2 and v.kind == 2) == name.endswith("videos")]
        if chosen:
            found[name] = inputs[name][chosen]
    if "pixel_values" in found:
        most = max(crops[v.kind] for v in mine if v.kind < 2)
        found["pixel_values"] = found["pixel_values"][:, :most]
    return found


def of_tiles(inputs: Inputs, mine: list[Visual], crops: list[int]) -> Inputs:
    """Tiles padded to those of the row with the most."""
    row, count = mine[0].row, sum(crops[v.kind] for v in mine)
    return {name: inputs[name][row : row + 1, :count] for name in ("pixel_values", "pixel_attention_mask")}


def image_or_video(inputs: Inputs, visual: Visual, crop: int) -> Tensor:
    return inputs["pixel_values_videos" if visual.kind == 2 else "pixel_values"][visual.nth, crop]


def in_rows(inputs: Inputs, visual: Visual, crop: int) -> Tensor:
    return inputs["pixel_values"][visual.row, visual.in_row + crop]


_IDEFICS = Hand([3, 1, 3], two_by_two, in_rows, of_tiles, [(0, 1, 2, 0), (1, 0, 0, 2), (2, 2, 1, 1)])
HANDS = {
    "idefics3": _IDEFICS,
    "internvl": Hand([3, 1], two_by_two, stacked(), of_crops, [(0, 0, 0, 2), (0, 2, 2, 1), (1, 0, 1, 0)]),
    "llava": Hand([1], one_to_one, stacked(), of_crops, [(0, 0, 2, 5), (0, 0, 4, 0)]),
    "llava_next": Hand(
        [5, 3], anyres, image_or_video, of_images, [(0, 0, 3, 1), (0, 1, 6, 0), (1, 1, 1, 7)], newlines=(8, 2)
    ),
    "llava_onevision": Hand(
        [5, 3, 2],
        onevision,
        image_or_video,
        of_images,
        [(0, 1, 5, 1), (1, 1, 1, 6), (2, 1, 0, 1)],
        newlines=(6, 2, 1),
        videos=(2,),
    ),
    "smolvlm": _IDEFICS,
}
