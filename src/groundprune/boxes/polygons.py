"""Outlines: polygons as models write them, and their pixels.

A polygon is a list of (x, y) points, its last one joined to its first. Text and unit coordinates are the codec's
business, which part of the image these span is the frame's, and pixels are pycocotools', whose masks the benchmarks
of referring segmentation are made of.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from groundprune.boxes.frames import Frame
from groundprune.boxes.geometry import Box, Point

Polygon = list[Point]

LEAST = 3  # points
_NUMBER = re.compile(r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")
# From the first bracket that opens a list of numbers, or of lists of them, as far as there is nothing else.
_LIST = re.compile(r"\[[\s\[(]*" + _NUMBER.pattern + r"(?:[\s,\[\]()]|" + _NUMBER.pattern + r")*")


@dataclass(frozen=True)
class PolygonCodec:
    """x and y of each point in turn, in square brackets: "[0.12, 0.30, 0.55, 0.71, 0.20, 0.80]".

    Attributes:
        grid: what 1 of the unit coordinates is along x and y: (1, 1) in shares, (1000, 1000) in thousandths, width
            and height in pixels.
        decimals: that are written.
    """

    grid: tuple[float, float] = (1, 1)
    decimals: int = 2

    def encode(self, polygon: Sequence[Point]) -> str:
        """Write a polygon.

        Args:
            polygon: in unit coordinates; points outside of 0..1 are moved to the border.

        Returns:
            The text.
        """
        numbers = [min(max(v, 0.0), 1.0) * g for point in polygon for v, g in zip(point, self.grid, strict=True)]
        return f"[{', '.join(f'{number:.{self.decimals}f}' for number in numbers)}]"

    def decode(self, text: str) -> Polygon | None:
        """Read the first polygon of a text, flat or as a list of points; never raises.

        Args:
            text: a model's answer.

        Returns:
            Its points in unit coordinates; None where the first list is none: fewer than three points, half of one,
            or one out of range. A list that is cut off counts as far as it goes.
        """
        found = _LIST.search(text)
        if found is None:
            return None
        numbers = [float(number) for number in _NUMBER.findall(_first_list(found[0]))]
        if len(numbers) < 2 * LEAST or len(numbers) % 2:
            return None
        points = [(x / self.grid[0], y / self.grid[1]) for x, y in zip(numbers[::2], numbers[1::2], strict=True)]
        return points if all(0 <= v <= 1 for point in points for v in point) else None


def _first_list(text: str) -> str:
    """As far as the bracket that closes the first one."""
    depth = 0
    for i, letter in enumerate(text):
        depth += (letter == "[") - (letter == "]")
        if depth == 0:
            return text[:i]
    return text


def to_pixels(polygon: Sequence[Point], frame: Frame) -> Polygon:
    """From unit coordinates of a frame to pixels of the image, moved into it."""
    boxes = [frame.to_pixels(Box(x, y, x, y)) for x, y in polygon]
    return [(box.x1, box.y1) for box in boxes]


def area(polygon: Sequence[Point]) -> float:
    """What the outline encloses, in the unit of its points, squared; 0 where it is not finite."""
    turned = [*polygon[1:], *polygon[:1]]
    found = abs(sum(x1 * y2 - x2 * y1 for (x1, y1), (x2, y2) in zip(polygon, turned, strict=True))) / 2
    return found if math.isfinite(found) else 0.0
