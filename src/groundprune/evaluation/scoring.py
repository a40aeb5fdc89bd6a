"""From a model's text to right or wrong."""

from __future__ import annotations

import string
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from groundprune.boxes import iou
from groundprune.data.samples import Sample
from groundprune.evaluation.protocols import Protocol
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
    ) -> dict[str, Any]:
        """A result row, see `groundprune.evaluation.results`. kept: visual tokens that the LLM read; cells: which."""
        about = {"setting": setting.id, "sample": sample.id, "kind": sample.kind, "type": sample.type}
        where = {"grids": None, "kept_cells": None} if cells is None else cells.to_row()
        return {**about, "answer": answer, **self.score(sample, answer, size), "kept": kept, **where}

    def score(self, sample: Sample, answer: str, size: tuple[int, int] | None = None) -> dict[str, Any]:
        """correct; for rec also iou (0..1) and box (pixels of the image, or None), both None for vqa.

        size: width and height of the image where they are known; else it is opened.
        """
        if sample.box is None:
            return {"correct": same_words(answer, sample.answer or ""), "iou": None, "box": None}
        box = self.reader.read(answer, *(sample.image.size if size is None else size))
        if box is None:
            return {"correct": False, "iou": 0.0, "box": None}
        overlap = iou(box, sample.box)
        return {
            "correct": self.reader.is_right(overlap),
            "iou": round(overlap, 4),
            "box": [round(edge, 2) for edge in box],
        }


def same_words(answer: str, truth: str) -> bool:
    """Exact match, ignoring case, punctuation and spacing."""
    return _words(answer) == _words(truth)


def _words(text: str) -> list[str]:
    return text.lower().translate(_NO_PUNCTUATION).split()
