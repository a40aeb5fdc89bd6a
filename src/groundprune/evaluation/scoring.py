"""From a model's text to right or wrong."""

from __future__ import annotations

import string
from dataclasses import dataclass
from typing import Any

from groundprune.asking import box_codec
from groundprune.boxes import iou, make_frame
from groundprune.data.samples import Sample
from groundprune.families.base import Grounding

IOU_THRESHOLD = 0.5
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True)
class Scorer:
    """Scores answers in the box language and frame of one checkpoint, whose processor a language in pixels needs.

    A box that cannot be read is wrong, and marked by `box` None; never is the better of two readings taken.
    """

    grounding: Grounding
    processor: Any = None

    def score(self, sample: Sample, answer: str) -> dict[str, Any]:
        """correct; for rec also iou (0..1) and box (pixels of the image, or None), both None for vqa."""
        if sample.box is None:
            return {"correct": same_words(answer, sample.answer or ""), "iou": None, "box": None}
        unit = box_codec(self.processor, self.grounding, *sample.image.size).decode(answer)
        if unit is None:
            return {"correct": False, "iou": 0.0, "box": None}
        box = make_frame(self.grounding.frame, *sample.image.size).to_pixels(unit)
        overlap = iou(box, sample.box)
        return {
            "correct": overlap >= IOU_THRESHOLD,
            "iou": round(overlap, 4),
            "box": [round(edge, 2) for edge in box],
        }


def same_words(answer: str, truth: str) -> bool:
    """Exact match, ignoring case, punctuation and spacing."""
    return _words(answer) == _words(truth)


def _words(text: str) -> list[str]:
    return text.lower().translate(_NO_PUNCTUATION).split()
