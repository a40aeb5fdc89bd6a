"""Words on a picture: where there is room for them, in what the ground lets be read."""

import bisect
import math
from collections.abc import Iterator

from PIL import ImageColor, ImageDraw, ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Rectangle = tuple[int, int, int, int]  # left, top, right, bottom; pixels of the result, the last two excluded


class Labels:
    """Places labels at their boxes, inside of the picture and clear of each other."""

    def __init__(self, canvas: ImageDraw.ImageDraw, size: tuple[int, int], line: int) -> None:
        self.canvas = canvas
        self.size = size
        self.line = line
        self.margin = line + 1
        self.font = ImageFont.load_default(max(12, round(min(max(size) / 38, min(size) / 8))))
        self.taken: list[Rectangle] = []

    def draw(self, text: str, box: Rectangle, colour: str) -> None:
        text = self._shortened(text)
        left, top, right, bottom = self.canvas.textbbox((0, 0), text, font=self.font)
        width = math.ceil(right - left) + 2 * self.margin
        height = math.ceil(bottom - top) + 2 * self.margin
        spots = list(self._spots(box, width, height))
        free = (spot for spot in spots if not any(_overlap(spot, other) for other in self.taken))
        spot = next(free, spots[0])
        self.taken.append(spot)
        self.canvas.rectangle((spot[0], spot[1], spot[2] - 1, spot[3] - 1), fill=colour)
        start = (spot[0] + self.margin - left, spot[1] + self.margin - top)
        self.canvas.text(start, text, fill=contrast(colour), font=self.font)

    def _shortened(self, text: str) -> str:
        return shortened(" ".join(text.split()), self.font, self.size[0] - 2 * self.margin)

    def _spots(self, box: Rectangle, width: int, height: int) -> Iterator[Rectangle]:
        """Above the box and below it, then ever further away, at last anywhere in the box's column."""
        left, top, right, bottom = box
        gap = max(1, self.line // 2)
        step = max(1, height // 2)
        for distance in range(0, self.size[1], step):
            for x in (left, right - width):
                for y in (top - height - gap - distance, bottom + gap + distance):
                    spot = self._inside(x, y, width, height)
                    if spot[1] == y:
                        yield spot
        for y in range(0, self.size[1], step):
            yield self._inside(left, y, width, height)

    def _inside(self, left: int, top: int, width: int, height: int) -> Rectangle:
        left = max(0, min(left, self.size[0] - width))
        top = max(0, min(top, self.size[1] - height))
        return left, top, left + width, top + height


def shortened(text: str, font: Font, room: float) -> str:
    """The text, or as many of its first characters as fit into `room` pixels together with an ellipsis."""
    if len(text) <= room and font.getlength(text) <= room:
        return text
    lengths = range(min(len(text), math.ceil(room)))
    fitting = bisect.bisect_right(lengths, room, key=lambda n: font.getlength(text[:n] + "…"))
    return text[: max(0, fitting - 1)].rstrip() + "…"


def _overlap(a: Rectangle, b: Rectangle) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def contrast(colour: str) -> str:
    """Black or white, whichever is read on a ground of this colour."""
    red, green, blue = ImageColor.getrgb(colour)[:3]
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 128 else "white"
