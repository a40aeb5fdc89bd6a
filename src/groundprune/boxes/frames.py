"""Frames: which part of the original image the model's unit coordinates span.

Every preprocessing (padding, squeezing, resizing and cropping) shows the model an axis-aligned
window of the original image, possibly larger than the image. A frame is that window. Resizing alone
changes no unit coordinate and needs no frame of its own.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from groundprune.boxes.geometry import Box
from groundprune.errors import GroundPruneError, unknown


@dataclass(frozen=True)
class Frame(ABC):
    """Maps between unit coordinates of what the model saw and pixels of the original image.

    Attributes:
        width: of the original image in pixels, at least 1, else GroundPruneError.
        height: likewise.
    """

    width: int
    height: int

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1:
            raise GroundPruneError(f"an image of {self.width} x {self.height} pixels has no frame")

    @property
    @abstractmethod
    def window(self) -> Box:
        """What the model saw, in pixels of the original image; may reach beyond its edges."""

    def to_unit(self, box: Box) -> Box:
        """From pixels to unit coordinates.

        Args:
            box: in pixels of the original image.

        Returns:
            Box in unit coordinates, outside of 0..1 where the model saw nothing.
        """
        window = self.window
        return Box(
            (box.x1 - window.x1) / window.width,
            (box.y1 - window.y1) / window.height,
            (box.x2 - window.x1) / window.width,
            (box.y2 - window.y1) / window.height,
        )

    def to_pixels(self, box: Box) -> Box:
        """From unit coordinates to pixels.

        Args:
            box: in unit coordinates.

        Returns:
            Box in pixels of the original image, clipped to it; degenerate where it lies in the padding altogether.
        """
        window = self.window
        return Box(
            window.x1 + box.x1 * window.width,
            window.y1 + box.y1 * window.height,
            window.x1 + box.x2 * window.width,
            window.y1 + box.y2 * window.height,
        ).clip(self.width, self.height)


FRAMES: dict[str, type[Frame]] = {}
FrameClass = TypeVar("FrameClass", bound=type[Frame])


def register_frame(name: str) -> Callable[[FrameClass], FrameClass]:
    """Class decorator: make a frame known.

    Args:
        name: what a `grounding.json` calls it.

    Returns:
        The decorator.

    Raises:
        GroundPruneError: a name in use.
    """

    def register(cls: FrameClass) -> FrameClass:
        if name in FRAMES:
            raise GroundPruneError(f"the frame name {name!r} is in use by {FRAMES[name].__name__}")
        FRAMES[name] = cls
        return cls

    return register


def make_frame(name: str, width: int, height: int) -> Frame:
    """The frame of a name.

    Args:
        name: one of FRAMES.
        width: of the original image, in pixels.
        height: likewise.

    Returns:
        Frame.

    Raises:
        GroundPruneError: an unknown name, with those that there are, or an empty image.
    """
    if name not in FRAMES:
        raise unknown("frame", name, FRAMES)
    return FRAMES[name](width, height)


@register_frame("original")
@dataclass(frozen=True)
class OriginalFrame(Frame):
    """The whole image and nothing else, at its own shape or squeezed to another."""

    @property
    def window(self) -> Box:
        return Box(0, 0, self.width, self.height)


@register_frame("padded")
@dataclass(frozen=True)
class PaddedSquareFrame(Frame):
    """The image in the middle of a square of its longer edge, as LLaVA's expand2square pads it."""

    @property
    def window(self) -> Box:
        side = max(self.width, self.height)
        left = (side - self.width) // 2
        top = (side - self.height) // 2
        return Box(-left, -top, side - left, side - top)


@register_frame("cropped")
@dataclass(frozen=True)
class CroppedFrame(Frame):
    """Shortest edge resized to `size` pixels, then the central square of `size` pixels cut out.

    This is what CLIPImageProcessor does, Hugging Face's default for LLaVA-1.5. Both of its roundings
    (the longer edge, the corner of the crop) are followed.

    Attributes:
        size: at least 1, else GroundPruneError.
    """

    size: int = 336

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size < 1:
            raise GroundPruneError(f"a crop of {self.size} pixels shows nothing")

    @property
    def window(self) -> Box:
        shortest = min(self.width, self.height)
        resized_width = int(self.size * self.width / shortest)
        resized_height = int(self.size * self.height / shortest)
        left = (resized_width - self.size) // 2
        top = (resized_height - self.size) // 2
        per_column = self.width / resized_width
        per_row = self.height / resized_height
        return Box(
            left * per_column,
            top * per_row,
            (left + self.size) * per_column,
            (top + self.size) * per_row,
        )
