"""Pictures that show what a model kept of an image, and the boxes it answered with."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from groundprune.boxes import Box, Frame
from groundprune.errors import GroundPruneError
from groundprune.report.labels import Font, Labels, Rectangle, contrast

# From the palette of Okabe and Ito, which the colour-blind tell apart.
GROUND_TRUTH = "#F0E442"  # yellow
UNPRUNED = "#56B4E9"  # sky blue
PRESERVED = "#009E73"  # bluish green
REASSIGNED = "#D55E00"  # vermillion

LONGEST_SIDE = 576  # pixels to which a small image is magnified at least
DIMMED = 0.4  # brightness of what was dropped

CAPTION = "bright: kept, dim: dropped"

LabelledBox = tuple[Box, str, str]  # pixels of the image; label, may be ""; colour in Pillow's notation


@dataclass(frozen=True, eq=False)
class KeptMap:
    """Which cells of the grid of visual tokens were kept.

    grid: Bool[rows, cols], row 0 at the top, spread evenly over the frame in which the model saw the
    image. Raises GroundPruneError when grid is no boolean matrix.
    """

    grid: np.ndarray
    frame: Frame

    def __post_init__(self) -> None:
        if self.grid.ndim != 2 or self.grid.dtype != np.bool_ or self.grid.size == 0:
            shape = list(self.grid.shape)
            raise GroundPruneError(f"a kept map is Bool[rows, cols], not {self.grid.dtype}{shape}")


def draw_overlay(
    image: Image.Image,
    boxes: Sequence[LabelledBox] = (),
    kept: KeptMap | None = None,
    scale: int | None = None,
    caption: str = "",
) -> Image.Image:
    """A magnified RGB copy: dropped cells dimmed, kept ones outlined, labelled boxes on top.

    boxes: later ones lie over earlier ones. kept: what the frame does not show at all (the sides of a
    crop) is dimmed as well; cells in its padding are not drawn. scale: whole factor of magnification,
    by default the least that makes the longer side 576 pixels. caption: stands in a strip below the picture, where it
    is wide enough.

    Raises GroundPruneError when the map's frame is that of an image of another size, or scale < 1.
    """
    if scale is None:
        scale = math.ceil(LONGEST_SIDE / max(image.size))
    if scale < 1:
        raise GroundPruneError(f"scale={scale}: at least 1 is needed")
    size = (image.width * scale, image.height * scale)
    picture = image.convert("RGB").resize(size, Image.Resampling.NEAREST)
    if kept is not None:
        if (kept.frame.width, kept.frame.height) != image.size:
            raise GroundPruneError(
                f"the kept map is of an image of {kept.frame.width} x {kept.frame.height} pixels, "
                f"not {image.width} x {image.height}"
            )
        picture = _dim_dropped(picture, kept, scale)
    canvas = ImageDraw.Draw(picture)
    line = max(2, round(min(max(size) / 190, min(size) / 20)))  # the second bounds it in very long pictures
    for box, _, colour in boxes:
        _draw_box(canvas, _scaled(box, scale), colour, line)
    labels = Labels(canvas, size, line)
    for box, text, colour in boxes:
        if text:
            labels.draw(text, _scaled(box, scale), colour)
    return _captioned(picture, caption, labels.font, labels.margin) if caption else picture


def _captioned(picture: Image.Image, text: str, font: Font, margin: int) -> Image.Image:
    left, top, right, bottom = font.getbbox(text)
    if right - left + 2 * margin > picture.width:
        return picture
    whole = Image.new("RGB", (picture.width, picture.height + math.ceil(bottom - top) + 2 * margin), "white")
    whole.paste(picture)
    ImageDraw.Draw(whole).text((margin - left, picture.height + margin - top), text, fill="black", font=font)
    return whole


def _scaled(box: Box, scale: int) -> Rectangle:
    left, top, right, bottom = (round(edge * scale) for edge in box)
    return left, top, right, bottom


def _dim_dropped(picture: Image.Image, kept: KeptMap, scale: int) -> Image.Image:
    bright = np.zeros((picture.height, picture.width), dtype=bool)
    rows, cols = kept.grid.shape
    for row, col in np.argwhere(kept.grid):
        cell = Box(col / cols, row / rows, (col + 1) / cols, (row + 1) / rows)
        left, top, right, bottom = _scaled(kept.frame.to_pixels(cell), scale)
        bright[top:bottom, left:right] = True
    outline = bright & ~_eroded(bright, max(1, round(max(picture.size) / 600)))
    pixels = np.asarray(picture)
    result = np.where(bright[..., None], pixels, (pixels * DIMMED).astype(np.uint8))
    result[outline] = 255
    return Image.fromarray(result)


def _eroded(mask: np.ndarray, width: int) -> np.ndarray:
    """The mask without its outermost `width` pixels; the picture's own border wears nothing off."""
    for axis in (0, 1):
        margins = [(width, width) if axis == a else (0, 0) for a in (0, 1)]
        windows = np.lib.stride_tricks.sliding_window_view(
            np.pad(mask, margins, constant_values=True), 2 * width + 1, axis=axis
        )
        mask = np.asarray(windows.all(axis=-1))
    return mask


def _draw_box(canvas: ImageDraw.ImageDraw, rectangle: Rectangle, colour: str, line: int) -> None:
    """The line runs inside of the box's edges, between two thin lines of halo."""
    left, top, right, bottom = rectangle
    if right <= left or bottom <= top:
        return
    halo = max(1, line // 2)
    for inset, width, ink in ((-halo, line + 2 * halo, contrast(colour)), (0, line, colour)):
        corners = (left + inset, top + inset, right - 1 - inset, bottom - 1 - inset)
        canvas.rectangle(corners, outline=ink, width=width)
