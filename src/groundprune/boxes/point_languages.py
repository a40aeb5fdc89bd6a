"""The languages in which models write points.

They are regular expressions whose work grows with the length of the text alone. The first point of a text is read;
where that is malformed or out of range there is none, also when a better one follows.
"""

import re
from dataclasses import dataclass
from typing import ClassVar

from groundprune.boxes.geometry import Box, Point
from groundprune.boxes.languages import InPixels
from groundprune.boxes.points import register_point_codec

# Possessive, as all that may repeat here: nothing is tried again.
_NUMBER = r"[-+]?+(?:[0-9]++(?:\.[0-9]*+)?+|\.[0-9]++)"
_X, _Y, _X2, _Y2 = (rf"(?P<{name}>{_NUMBER})" for name in ("x", "y", "x2", "y2"))
_COMMA = r"\s*+,\s*+"
_SECOND = rf"(?:{_COMMA}{_X2}{_COMMA}{_Y2})?+"  # the other corner of a box
# A second pair behind the first: two corners, or an outline, and no point.
_MORE = r"(?P<more>\s*+,?+\s*+[(\[]\s*+[-+.0-9])?+"


class GridPoints:
    """x and y in steps of 1 / grid.

    form: for str.format, with two numbers. patterns: the first that is found counts, with the groups x and y; x2 and
    y2, where a box may stand for its centre; and more, where the text goes on to what is no point.
    """

    in_pixels: ClassVar[bool] = False
    form: ClassVar[str]
    patterns: ClassVar[tuple[re.Pattern[str], ...]]
    decimals: ClassVar[int] = 0

    @property
    def grid(self) -> tuple[int, int]:
        """Steps from 0 to 1 along x and y."""
        return 1000, 1000

    def encode(self, point: Point) -> str:
        numbers = [min(max(v, 0.0), 1.0) * steps for v, steps in zip(point, self.grid, strict=True)]
        return self.form.format(*(f"{number:.{self.decimals}f}" for number in numbers))

    def speaks(self, text: str) -> bool:
        return self._found(text) is not None

    def decode(self, text: str) -> Point | None:
        found = self._found(text)
        if found is None or found["x"] is None:
            return None
        said = found.groupdict()
        x, y, x2, y2 = (float(said[name]) if said.get(name) else None for name in ("x", "y", "x2", "y2"))
        assert x is not None
        assert y is not None
        box = Box(x, y, x if x2 is None else x2, y if y2 is None else y2)
        if box.width < 0 or box.height < 0:
            return None
        steps_x, steps_y = self.grid
        unit = Box(box.x1 / steps_x, box.y1 / steps_y, box.x2 / steps_x, box.y2 / steps_y)
        return unit.centre if all(0 <= edge <= 1 for edge in unit) else None

    def _found(self, text: str) -> re.Match[str] | None:
        for pattern in self.patterns:
            found = pattern.search(text)
            if found is not None:
                return None if found.groupdict().get("more") else found
        return None


class _QwenPoints(GridPoints):
    """A key of JSON, read without a JSON parser: many an answer is cut off after its point; else the first "(x,y)".

    The keys: "point_2d"; "coordinate" of a call of the tool computer_use, which may hold a box, as the evaluation of
    ScreenSpot-Pro reads it.
    """

    form = '```json\n[\n\t{{"point_2d": [{}, {}]}}\n]\n```'
    # Numbers are optional, so that a first point with too few is found, and is none.
    patterns = (
        re.compile(
            r"[\"'](?:point_2d|(?P<tool>coordinate))[\"']\s*+:\s*+"
            rf"(?:\[\s*+{_X}{_COMMA}{_Y}(?(tool){_SECOND})\s*+\])?+"
        ),
        re.compile(rf"\(\s*+{_X}{_COMMA}{_Y}\s*+\){_MORE}"),
    )


@register_point_codec
@dataclass(frozen=True)
class Point2d1000(_QwenPoints):
    """Qwen3-VL (arXiv 2511.21631): {"point_2d": [335, 505]}, in thousandths."""

    name: ClassVar[str] = "point-2d-1000"


@register_point_codec
@dataclass(frozen=True)
class Point2dPixels(InPixels, _QwenPoints):
    """Qwen2.5-VL (arXiv 2502.13923): {"point_2d": [214, 242]}, in pixels of the resized image."""

    name: ClassVar[str] = "point-2d-pixels"


class _UiTarsPoints(GridPoints):
    """UI-TARS: the first argument start_box (or point, as later prompts call it), box token or point tag of a text,
    with two numbers, or four for a box; else a text that is "(x,y)" alone, as its prompt for grounding asks.
    """

    form = "Action: click(start_box='({},{})')"
    patterns = (
        re.compile(
            r"(?:(?:start_box|point)\s*+=\s*+[\"']?+\s*+(?:<\|box_start\|>|<point>)?+|<\|box_start\|>|<point>)\s*+"
            rf"(?:[(\[]?+\s*+{_X}(?:{_COMMA}|\s++){_Y}{_SECOND}\s*+[)\]<]{_MORE})?+"
        ),
        re.compile(rf"\A\s*+\(\s*+{_X}{_COMMA}{_Y}\s*+\)\s*+\Z"),
    )


@register_point_codec
@dataclass(frozen=True)
class UiTars1000(_UiTarsPoints):
    """UI-TARS 1.0 (arXiv 2501.12326, of Qwen2-VL): thousandths of the image."""

    name: ClassVar[str] = "ui-tars-1000"
    form = "Action: click(start_box='<|box_start|>({},{})<|box_end|>')"


@register_point_codec
@dataclass(frozen=True)
class UiTarsPixels(InPixels, _UiTarsPoints):
    """UI-TARS 1.5 (of Qwen2.5-VL): pixels of the resized image, as README_coordinates.md of its repository says."""

    name: ClassVar[str] = "ui-tars-pixels"


@register_point_codec
@dataclass(frozen=True)
class SharePoints(GridPoints):
    """As LLaVA and SeeClick (arXiv 2401.10935) write: "(0.33, 0.50)" or "[0.33, 0.50]", shares of the frame."""

    name: ClassVar[str] = "shares"
    form = "({}, {})"
    patterns = (re.compile(rf"[(\[]\s*+{_X}{_COMMA}{_Y}\s*+[)\]]{_MORE}"),)
    decimals = 2

    @property
    def grid(self) -> tuple[int, int]:
        return 1, 1
