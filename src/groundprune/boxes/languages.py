"""Box languages of whole numbers: steps of a grid over the frame, or pixels of the resized image.

In each, edges outside of 0..1 are moved to the border when written. The first box of a text is read; where that is
out of range or without area there is none, also when a better one follows.
"""

import math
import re
from dataclasses import dataclass
from typing import ClassVar

from groundprune.boxes.codecs import register_codec
from groundprune.boxes.geometry import Box
from groundprune.errors import GroundPruneError

_N = r"([-+]?[0-9]+(?:\.[0-9]+)?)"
_FOUR = r"\s*,\s*".join([_N] * 4)


def _proper(x1: float, y1: float, x2: float, y2: float) -> Box | None:
    box = Box(x1, y1, x2, y2)
    return box if box.area > 0 and all(0 <= edge <= 1 for edge in box) else None


class GridCodec:
    """Edges in steps of 1 / steps. A box smaller than a step may lose its area when written, and is not read back.

    form: for str.format, with four numbers. pattern: four groups. order: of x1, y1, x2, y2 in both.
    names_object: models first repeat what they were asked for.
    """

    steps: ClassVar[int] = 1000
    form: ClassVar[str]
    pattern: ClassVar[re.Pattern[str]]
    order: ClassVar[tuple[int, int, int, int]] = (0, 1, 2, 3)
    names_object: ClassVar[bool] = False

    @property
    def grid(self) -> tuple[int, int]:
        """Steps from 0 to 1 along x and y."""
        return self.steps, self.steps

    def encode(self, box: Box) -> str:
        numbers = [round(edge * steps) for edge, steps in zip(box.clip(1, 1), self.grid * 2, strict=True)]
        return self.form.format(*(numbers[i] for i in self.order))

    def decode(self, text: str) -> Box | None:
        match = self.pattern.search(text)
        if match is None or match[1] is None:
            return None
        numbers = [float(match[1 + place]) for place in self.order]
        return _proper(*(number / steps for number, steps in zip(numbers, self.grid * 2, strict=True)))


@register_codec
@dataclass(frozen=True)
class Qwen2VLCodec(GridCodec):
    """Qwen-VL (arXiv 2308.12966) and Qwen2-VL (2409.12191): "(120,300),(550,710)" in box tokens, in thousandths."""

    name: ClassVar[str] = "qwen2-vl"
    form = "<|box_start|>({},{}),({},{})<|box_end|>"
    pattern = re.compile(rf"\(\s*{_N}\s*,\s*{_N}\s*\)\s*,\s*\(\s*{_N}\s*,\s*{_N}\s*\)")
    names_object = True


@register_codec
@dataclass(frozen=True)
class InternVLCodec(GridCodec):
    """InternVL (arXiv 2312.14238): "<box>[[120, 300, 550, 710]]</box>", in thousandths; the tags may be missing."""

    name: ClassVar[str] = "internvl"
    form = "<box>[[{}, {}, {}, {}]]</box>"
    pattern = re.compile(rf"\[\s*\[\s*{_FOUR}\s*\]")
    names_object = True


@dataclass(frozen=True)
class InPixels:
    """Of languages of boxes and of points whose steps are pixels of the resized image.

    width, height: of that image, at least 1, else GroundPruneError. Its unit coordinates are the original image's:
    resizing changes none.
    """

    in_pixels: ClassVar[bool] = True
    name: ClassVar[str]
    width: int = 0
    height: int = 0

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1:
            size = f"{self.width} x {self.height}"
            raise GroundPruneError(f"{self.name} needs the width and height of the resized image (got {size})")

    @property
    def grid(self) -> tuple[int, int]:
        """Steps from 0 to 1 along x and y."""
        return self.width, self.height


class Bbox2dCodec(GridCodec):
    """The key bbox_2d in JSON. Read without a JSON parser: many an answer is cut off after its box."""

    form = '```json\n[\n\t{{"bbox_2d": [{}, {}, {}, {}]}}\n]\n```'
    # Four numbers are optional, so that a first box with too few is found, and is none.
    pattern = re.compile(rf"[\"']bbox_2d[\"']\s*:\s*\[(?:\s*{_FOUR}\s*\])?")


@register_codec
@dataclass(frozen=True)
class Bbox2d1000Codec(Bbox2dCodec):
    """Qwen3-VL (arXiv 2511.21631): {"bbox_2d": [120, 300, 550, 710]}, in thousandths."""

    name: ClassVar[str] = "bbox-2d-1000"


@register_codec
@dataclass(frozen=True)
class Bbox2dPixelsCodec(InPixels, Bbox2dCodec):
    """Qwen2.5-VL (arXiv 2502.13923): {"bbox_2d": [77, 144, 352, 341]}, in pixels of the resized image."""

    name: ClassVar[str] = "bbox-2d-pixels"


@register_codec
@dataclass(frozen=True)
class PaliGemmaCodec(GridCodec):
    """PaliGemma (arXiv 2407.07726): "<loc0307><loc0123><loc0726><loc0563> mug", y first, 1024 tokens for 0..1."""

    name: ClassVar[str] = "paligemma"
    steps = 1023
    form = "<loc{:04}><loc{:04}><loc{:04}><loc{:04}>"
    pattern = re.compile(r"\s*".join([r"<loc([0-9]{4})>"] * 4))
    order = (1, 0, 3, 2)


@register_codec
@dataclass(frozen=True)
class Florence2Codec:
    """Florence-2 (arXiv 2311.06242): "<loc_120><loc_300><loc_550><loc_710>", bins read at their middle."""

    name: ClassVar[str] = "florence-2"
    _pattern: ClassVar[re.Pattern[str]] = re.compile(r"<loc_([0-9]{1,3})>" * 4)

    def encode(self, box: Box) -> str:
        return "".join(f"<loc_{min(math.floor(edge * 1000), 999)}>" for edge in box.clip(1, 1))

    def decode(self, text: str) -> Box | None:
        match = self._pattern.search(text)
        return None if match is None else _proper(*((int(number) + 0.5) / 1000 for number in match.groups()))


@register_codec
@dataclass(frozen=True)
class Kosmos2Codec:
    """Kosmos-2 (arXiv 2306.14824): "<patch_index_0044><patch_index_0863>", the first and last cell of 32 x 32.

    Edges are the middles of these cells, or their borders where both cells lie in one row or column.
    """

    name: ClassVar[str] = "kosmos-2"
    _cells: ClassVar[int] = 32
    _pattern: ClassVar[re.Pattern[str]] = re.compile(r"<patch_index_([0-9]{4})>" * 2)

    def encode(self, box: Box) -> str:
        x1, y1, x2, y2 = (edge * self._cells for edge in box.clip(1, 1))
        left, top = (min(math.floor(edge), self._cells - 1) for edge in (x1, y1))
        right, bottom = (max(math.ceil(edge) - 1, 0) for edge in (x2, y2))
        corners = (top * self._cells + left, bottom * self._cells + right)
        return "<object>{}</object>".format("".join(f"<patch_index_{corner:04}>" for corner in corners))

    def decode(self, text: str) -> Box | None:
        match = self._pattern.search(text)
        if match is None:
            return None
        (top, left), (bottom, right) = (divmod(int(corner), self._cells) for corner in match.groups())
        low, high = (0.0, 1.0) if left == right or top == bottom else (0.5, 0.5)
        edges = (left + low, top + low, right + high, bottom + high)
        return _proper(*(edge / self._cells for edge in edges))
