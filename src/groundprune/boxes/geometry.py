"""A box and the overlap of two."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

Point = tuple[float, float]  # x and y, in whatever unit is said


@dataclass(frozen=True, slots=True)
class Box:
    """Left, top, right and bottom edge.

    The unit is said by whoever makes or takes the box: pixels of the original image, or unit
    coordinates (0 to 1) of a frame. Nothing is checked here: a box that a model got wrong is still
    a box, and its overlap with any other is 0.

    Attributes:
        x1: left edge.
        y1: top edge.
        x2: right edge.
        y2: bottom edge.
    """

    x1: float
    y1: float
    x2: float
    y2: float

    @classmethod
    def from_xywh(cls, x: float, y: float, width: float, height: float) -> "Box":
        """The box of COCO annotations, in any unit.

        Args:
            x: left edge.
            y: top edge.
            width: to the right edge.
            height: to the bottom edge.

        Returns:
            Box.
        """
        return cls(x, y, x + width, y + height)

    @property
    def width(self) -> float:
        """x2 - x1; negative when the edges are swapped."""
        return self.x2 - self.x1

    @property
    def height(self) -> float:
        """y2 - y1; negative when the edges are swapped."""
        return self.y2 - self.y1

    @property
    def area(self) -> float:
        """Width times height, 0 for a degenerate box (edges that touch, are swapped or are NaN)."""
        return self.width * self.height if self.width > 0 and self.height > 0 else 0.0

    @property
    def centre(self) -> Point:
        """Halfway between the edges."""
        return (self.x1 + self.x2) / 2, (self.y1 + self.y2) / 2

    def holds(self, point: Point) -> bool:
        """Whether a point, in the same unit, lies inside; on an edge is inside."""
        x, y = point
        return self.x1 <= x <= self.x2 and self.y1 <= y <= self.y2

    def clip(self, width: float, height: float) -> "Box":
        """The part of the box inside of a rectangle from 0; it may become degenerate.

        Args:
            width: largest x.
            height: largest y.

        Returns:
            Box with every edge moved into 0..width and 0..height.
        """
        return Box(
            min(max(self.x1, 0.0), width),
            min(max(self.y1, 0.0), height),
            min(max(self.x2, 0.0), width),
            min(max(self.y2, 0.0), height),
        )

    def __iter__(self) -> Iterator[float]:
        return iter((self.x1, self.y1, self.x2, self.y2))


def iou(a: Box, b: Box) -> float:
    """Intersection over union of two boxes.

    Args:
        a: a box.
        b: another, in the same unit.

    Returns:
        0 to 1; 0 where a box is degenerate or its area is not finite.
    """
    intersection = Box(max(a.x1, b.x1), max(a.y1, b.y1), min(a.x2, b.x2), min(a.y2, b.y2)).area
    union = a.area + b.area - intersection
    if not (a.area > 0 and b.area > 0 and math.isfinite(union)):
        return 0.0
    return intersection / union
