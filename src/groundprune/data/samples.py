"""One question about one image, with what counts as a right answer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import Any

from PIL import Image

from groundprune.boxes import Box, iou
from groundprune.data.masks import decoded
from groundprune.data.pictures import Picture
from groundprune.errors import GroundPruneError

KINDS = ("rec", "vqa", "seg", "point")


@dataclass(frozen=True, eq=False)
class Sample:
    """A referring expression, answered by a box ("rec"), an outline ("seg") or a point ("point"), or a visual
    question ("vqa"), answered by words.

    Attributes:
        id: unique in its data set.
        picture: an image, or where to read one.
        kind: "rec", "vqa", "seg" or "point".
        type: the kind of expression or question, for results per type.
        text: the expression or question alone, without a prompt around it.
        box: of a "rec", in pixels of the image; of a "point", which is to lie in it; of a "seg" where it is known.
        answer: of a "vqa".
        split: of the data set.
        mask: of a "seg": the object's pixels as their source gives them, see `groundprune.data.masks`.
        others: boxes of what else is in the image and is not asked about; None where the source does not say it.

    Raises:
        GroundPruneError: the answer that the kind calls for is missing, or a box holds what is no number.
    """

    id: str
    picture: Image.Image | Picture
    kind: str
    type: str
    text: str
    box: Box | None
    answer: str | None
    split: str
    mask: Any = None
    others: tuple[Box, ...] | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise GroundPruneError(f"sample {self.id}: kind must be one of {', '.join(KINDS)} (got {self.kind!r})")
        needed = {"rec": "box", "vqa": "answer", "seg": "mask", "point": "box"}[self.kind]
        if getattr(self, needed) is None:
            raise GroundPruneError(f"sample {self.id} has no {needed}")
        for box in (self.box or (), *(self.others or ())):
            if any(isinstance(edge, bool) or not isinstance(edge, Real) for edge in box):
                raise GroundPruneError(f"sample {self.id}: a box is four numbers (got {list(box)})")

    def impossible(self, width: float = math.inf, height: float = math.inf) -> str | None:
        """Why the sample's box, or its mask, cannot be right: any answer to it would count as wrong.

        A mask is looked at where the size of its image is given. A box that reaches out of the image by less than
        half of itself is none of these.

        Args:
            width: of the image, in pixels.
            height: likewise.

        Returns:
            The reason, or None.
        """
        if self.kind == "seg" and math.isfinite(width):
            try:
                empty = not decoded(self.mask, int(width), int(height)).any()
            except GroundPruneError as error:
                return f"sample {self.id}: {error}"
            return f"sample {self.id}: its mask holds no pixel" if empty else None
        if self.kind not in ("rec", "point") or self.box is None:
            return None
        named = f"sample {self.id}: its box [{', '.join(f'{edge:g}' for edge in self.box)}] (x1, y1, x2, y2)"
        if not 0 < self.box.area < math.inf:
            return f"{named} has no area: an edge is no number, or left is not left of right, or top not above bottom"
        if iou(self.box.clip(width, height), self.box) < 0.5:
            return f"{named} lies outside of its image of {width:g} x {height:g} pixels"
        return None

    @property
    def image(self) -> Image.Image:
        """Read anew at every call where it lies on a disk. Raises ImageError where it cannot be read."""
        return self.picture if isinstance(self.picture, Image.Image) else self.picture.open()

    @property
    def image_key(self) -> str:
        """The same for two samples about one stored image; an image in memory is the sample's own."""
        return f"sample {self.id}" if isinstance(self.picture, Image.Image) else self.picture.key
