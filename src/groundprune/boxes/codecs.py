"""Codecs: the languages in which models write boxes as text.

A codec knows text and unit coordinates (0 to 1 of some frame); which part of the image these span is
the frame's business.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol, TypeVar

from groundprune.boxes.geometry import Box
from groundprune.errors import GroundPruneError, unknown


class BoxCodec(Protocol):
    """What a box language must offer; implementations carry @register_codec.

    Attributes:
        name: what a `grounding.json` calls it.
    """

    name: ClassVar[str]

    def encode(self, box: Box) -> str:
        """Write a box.

        Args:
            box: in unit coordinates; edges outside of 0..1 are moved to the border.

        Returns:
            The text.
        """
        ...

    def decode(self, text: str) -> Box | None:
        """Read a box; never raises.

        Args:
            text: a model's answer.

        Returns:
            Its box in unit coordinates; None where it gives none, or one without area or out of the language's range.
        """
        ...


CODECS: dict[str, Callable[..., BoxCodec]] = {}
Codec = TypeVar("Codec", bound=type[BoxCodec])


def register_codec(cls: Codec) -> Codec:
    """Class decorator: make a codec known under its `name`.

    Args:
        cls: the codec.

    Returns:
        The same class.

    Raises:
        GroundPruneError: a name in use.
    """
    if cls.name in CODECS:
        raise GroundPruneError(f"the codec name {cls.name!r} is in use")
    CODECS[cls.name] = cls
    return cls


def make_codec(name: str, **settings: int) -> BoxCodec:
    """The codec of a name.

    Args:
        name: one of CODECS.
        **settings: the codec's own (decimals=3, say).

    Returns:
        BoxCodec.

    Raises:
        GroundPruneError: an unknown name, with the nearest and all that there are.
    """
    if name not in CODECS:
        raise unknown("box codec", name, CODECS)
    return CODECS[name](**settings)


# [0-9] and not \d, which would admit the digits of every script.
_NUMBER = r"([-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+))"
_FOUR_IN_BRACKETS = re.compile(r"\[\s*" + r"\s*,\s*".join([_NUMBER] * 4) + r"\s*\]")


def _proper(box: Box) -> Box | None:
    return box if box.area > 0 and all(0 <= edge <= 1 for edge in box) else None


@dataclass(frozen=True)
class BracketCodec:
    """Four unit coordinates in square brackets, x1 y1 x2 y2, with a fixed number of decimals.

    A box no larger than the last decimal may lose its area when written, and is then not read back.

    Attributes:
        decimals: at least 1, else GroundPruneError.
    """

    decimals: int
    separator: ClassVar[str] = ", "

    def __post_init__(self) -> None:
        if self.decimals < 1:
            raise GroundPruneError(f"decimals={self.decimals}: a box needs at least 1")

    def encode(self, box: Box) -> str:
        numbers = (f"{edge:.{self.decimals}f}" for edge in box.clip(1, 1))
        return f"[{self.separator.join(numbers)}]"

    def decode(self, text: str) -> Box | None:
        """The first four numbers in brackets, whatever their spacing and number of decimals.

        A malformed first box is malformed, also when a second one follows: choosing among several
        answers would be choosing the better of them.
        """
        match = _FOUR_IN_BRACKETS.search(text)
        return None if match is None else _proper(Box(*map(float, match.groups())))


@register_codec
@dataclass(frozen=True)
class LlavaCodec(BracketCodec):
    """LLaVA-1.5: "[0.12, 0.30, 0.55, 0.71]"."""

    name: ClassVar[str] = "llava"
    decimals: int = 2


_SHIKRA_BOX = ",".join([r"[0-9](?:\.[0-9]*)?"] * 4)
_SHIKRA_GROUP = re.compile(rf"\[({_SHIKRA_BOX}(?:;{_SHIKRA_BOX})*)\]")


@register_codec
@dataclass(frozen=True)
class ShikraCodec(BracketCodec):
    """Shikra: "[0.120,0.300,0.550,0.710]"."""

    name: ClassVar[str] = "shikra"
    decimals: int = 3
    separator: ClassVar[str] = ","

    def decode(self, text: str) -> Box | None:
        """As the authors' evaluation reads: no blanks, one digit before the point, and one box in the whole text."""
        groups = _SHIKRA_GROUP.findall(text)
        if len(groups) != 1 or ";" in groups[0]:
            return None
        return _proper(Box(*map(float, groups[0].split(","))))


_MINIGPT_BOX = re.compile(r"\{(?:<[0-9]{1,3}>){4}\}")


@register_codec
@dataclass(frozen=True)
class MiniGPTv2Codec:
    """MiniGPT-v2: "{<12><30><55><71>}", in hundredths, cut off and not rounded."""

    name: ClassVar[str] = "minigpt-v2"

    def encode(self, box: Box) -> str:
        # Hundredths themselves must stay: 0.29 * 100 is 28.999999999999996.
        return "{" + "".join(f"<{int(edge * 100 + 1e-9)}>" for edge in box.clip(1, 1)) + "}"

    def decode(self, text: str) -> Box | None:
        """As the authors' evaluation reads: the text begins with the box, and holds no further number."""
        said = text.replace("<unk>", "").replace(" ", "").strip()
        numbers = re.findall(r"[0-9]+", said)
        if _MINIGPT_BOX.match(said) is None or len(numbers) != 4:
            return None
        return _proper(Box(*(int(number) / 100 for number in numbers)))
