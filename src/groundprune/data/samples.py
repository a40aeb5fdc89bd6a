"""One question about one image, with what counts as a right answer."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from groundprune.boxes import Box
from groundprune.errors import GroundPruneError

KINDS = ("rec", "vqa")


@dataclass(frozen=True, eq=False)
class Sample:
    """A referring expression ("rec", answered by a box) or a visual question ("vqa", answered by words).

    id: unique in its data set. type: the kind of expression or question, for results per type.
    text: the expression or question alone, without a prompt around it. box: pixels of the image.
    Raises GroundPruneError where the answer that the kind calls for is missing.
    """

    id: str
    image: Image.Image
    kind: str
    type: str
    text: str
    box: Box | None
    answer: str | None
    split: str

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise GroundPruneError(f"sample {self.id}: kind must be one of {', '.join(KINDS)} (got {self.kind!r})")
        if (self.box if self.kind == "rec" else self.answer) is None:
            raise GroundPruneError(f"sample {self.id} has no {'box' if self.kind == 'rec' else 'answer'}")
