"""From a model's text to right or wrong."""

from __future__ import annotations

import string
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from groundprune.boxes import iou, make_frame
from groundprune.boxes.points import to_pixels
from groundprune.data.masks import decoded, filled, overlap
from groundprune.data.samples import Sample
from groundprune.evaluation.protocols import IOU_THRESHOLD, Protocol
from groundprune.evaluation.rows import KeptCells
from groundprune.evaluation.specs import Setting
from groundprune.families.grounding import Grounding

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True)
class Scorer:
    """Scores answers as a protocol reads those of a checkpoint. grounding, processor: its own.

    A box that cannot be read is wrong, and marked by `box` None; never is the better of two readings taken.
    """

    grounding: Grounding
    processor: Any = None
    protocol: str = "native"

    @cached_property
    def reader(self) -> Protocol:
        return Protocol.of(self.protocol, self.grounding, self.processor)

    def row(
        self,
        setting: Setting,
        sample: Sample,
        answer: str,
        size: tuple[int, int],
        kept: int,
        cells: KeptCells | None = None,
        cost: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """A result row, see `groundprune.evaluation.results`. kept: visual tokens that the LLM read; cells: which."""
        about = {"setting": setting.id, "sample": sample.id, "kind": sample.kind, "type": sample.type}
        where = {"grids": None, "kept_cells": None} if cells is None else cells.to_row()
        return {**about, "answer": answer, **self.score(sample, answer, size), "kept": kept, **where, "cost": cost}

    def score(self, sample: Sample, answer: str, size: tuple[int, int] | None = None) -> dict[str, Any]:
        """correct; for rec also iou (0..1) and box (pixels of the image, or None), both None for vqa; for seg iou and
        pixels (in both masks, in either; None without an outline); for point, point (pixels of the image, or None).

        size: width and height of the image where they are known; else it is opened.
        """
        if sample.kind == "vqa":
            return {"correct": same_words(answer, sample.answer or ""), "iou": None, "box": None}
        size = sample.image.size if size is None else size
        if sample.kind == "seg":
            return self._outlined(sample, answer, *size)
        if sample.kind == "point":
            return self._pointed(sample, answer, *size)
        assert sample.box is not None  # a sample without one is refused
        box = self.reader.read(answer, *size)
        if box is None:
            return {"correct": False, "iou": 0.0, "box": None}
        overlap = iou(box, sample.box)
        return {
            "correct": self.reader.is_right(overlap),
            "iou": round(overlap, 4),
            "box": [round(edge, 2) for edge in box],
        }

    def _outlined(self, sample: Sample, answer: str, width: int, height: int) -> dict[str, Any]:
        truth, outline = decoded(sample.mask, width, height), self.reader.outline(answer, width, height)
        said = np.zeros_like(truth) if outline is None else filled(outline, width, height)
        both, either = overlap(said, truth)
        share = both / either if either else 0.0
        pixels = {"both": both, "either": either, "outlined": outline is not None}
        return {"correct": share >= IOU_THRESHOLD, "iou": round(share, 4), "box": None, "pixels": pixels}

    def _pointed(self, sample: Sample, answer: str, width: int, height: int) -> dict[str, Any]:
        point = self.reader.point(answer, width, height)
        found = {"correct": False, "iou": None, "box": None, "point": None}
        if point is None:
            return found
        assert sample.box is not None  # a sample without one is refused
        frame = make_frame(self.reader.grounding.frame, width, height)
        # Shares are compared, as the authors of ScreenSpot do: pixels that went through a share and back may be off
        # an edge by a rounding.
        right = frame.to_unit(sample.box).holds(point)
        return found | {"correct": right, "point": [round(v, 2) for v in to_pixels(point, frame)]}


def same_words(answer: str, truth: str) -> bool:
    """Exact match, ignoring case, punctuation and spacing."""
    return _words(answer) == _words(truth)


def _words(text: str) -> list[str]:
    return text.lower().translate(_NO_PUNCTUATION).split()
