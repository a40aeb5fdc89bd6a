"""Points, which models write where they are asked where to click: as a box, text and unit coordinates of a frame."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol, TypeVar

from groundprune.boxes.codecs import BoxCodec
from groundprune.boxes.frames import Frame
from groundprune.boxes.geometry import Point
from groundprune.errors import GroundPruneError, unknown


class PointCodec(Protocol):
    """What a language of points must offer; implementations carry @register_point_codec.

    Attributes:
        name: what a `grounding.json` calls it.
        in_pixels: whether it is made with the `width` and `height` of the resized image.
    """

    name: ClassVar[str]
    in_pixels: ClassVar[bool]

    def encode(self, point: Point) -> str:
        """Write a point.

        Args:
            point: in unit coordinates; moved to the border where it is outside of 0..1.

        Returns:
            The text.
        """
        ...

    def speaks(self, text: str) -> bool:
        """Whether a text holds a point of this language, be it malformed or out of range."""
        ...

    def decode(self, text: str) -> Point | None:
        """Read a point; never raises.

        Args:
            text: a model's answer.

        Returns:
            Its point in unit coordinates; None where it gives none, or one that is out of the language's range.
        """
        ...


POINT_CODECS: dict[str, Callable[..., PointCodec]] = {}
Codec = TypeVar("Codec", bound=type[PointCodec])


def register_point_codec(cls: Codec) -> Codec:
    """Class decorator: make a codec known under its `name`.

    Args:
        cls: the codec.

    Returns:
        The same class.

    Raises:
        GroundPruneError: a name in use.
    """
    if cls.name in POINT_CODECS:
        raise GroundPruneError(f"the point codec name {cls.name!r} is in use")
    POINT_CODECS[cls.name] = cls
    return cls


def make_point_codec(name: str, width: int, height: int) -> PointCodec:
    """The codec of a name.

    Args:
        name: one of POINT_CODECS.
        width: of the resized image in pixels, for those that count in these.
        height: likewise.

    Returns:
        PointCodec.

    Raises:
        GroundPruneError: an unknown name, with the nearest and all that there are.
    """
    check_point_codec(name)
    cls = POINT_CODECS[name]
    return cls(width=width, height=height) if in_pixels(name) else cls()


def check_point_codec(name: str) -> None:
    """Raises GroundPruneError for an unknown name."""
    if name not in POINT_CODECS:
        raise unknown("point codec", name, POINT_CODECS)


def in_pixels(name: str) -> bool:
    """Whether a codec of POINT_CODECS counts in pixels of the resized image."""
    return getattr(POINT_CODECS[name], "in_pixels", False)


@dataclass(frozen=True)
class PointOrCentre:
    """What an answer points at: its point, or the centre of its box where it speaks of boxes alone.

    points: None for a checkpoint that is asked for a box. boxes: the checkpoint's.
    """

    points: PointCodec | None
    boxes: BoxCodec

    def decode(self, text: str) -> Point | None:
        """In unit coordinates; None where the text gives neither. A malformed point is none, whatever follows it."""
        if self.points is not None and self.points.speaks(text):
            return self.points.decode(text)
        box = self.boxes.decode(text)
        return None if box is None else box.centre


def to_pixels(point: Point, frame: Frame) -> Point:
    """From unit coordinates of a frame to pixels of the image.

    Args:
        point: in unit coordinates.
        frame: of the image.

    Returns:
        In pixels; outside of the image for a point in its padding, which is no point of the image.
    """
    window = frame.window
    return window.x1 + point[0] * window.width, window.y1 + point[1] * window.height
