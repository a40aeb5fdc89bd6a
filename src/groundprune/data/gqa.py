"""GQA (arXiv 1902.09506), testdev balanced, from the official JSON; and those of its questions that are spatial."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from groundprune.data.files import in_format, read_json
from groundprune.data.pictures import ImageFile
from groundprune.data.samples import Sample
from groundprune.errors import unknown

FILE = Path("gqa") / "testdev_balanced_questions.json"
IMAGES = Path("gqa") / "images"
SOURCE = f"official files, {FILE.name}"
SPLITS = ("testdev", "testdev-spatial")
_POSITION = re.compile(r"\b(left|right|above|below|front|behind)\b")


def gqa_samples(split: str, root: Path) -> list[Sample]:
    """Raises GroundPruneError for an unknown split, and for a file that is missing or in another format."""
    if split not in SPLITS:
        raise unknown("split of gqa", split, SPLITS)
    questions = read_json(root / FILE)
    with in_format(root / FILE, "GQA"):
        return [
            Sample(
                id, ImageFile(root / IMAGES, f"{q['imageId']}.jpg"), "vqa", q["types"]["semantic"],
                q["question"], None, q["answer"], split,
            )
            for id, q in questions.items()
            if split == "testdev" or is_spatial(q)
        ]  # fmt: skip


def is_spatial(question: Mapping[str, Any]) -> bool:
    """Of semantic type `rel`, with a position among the relations that its program asks about."""
    return question["types"]["semantic"] == "rel" and any(
        # relate, verify rel, choose rel; a filter by position is about the image, not about two objects.
        "rel" in step["operation"] and _POSITION.search(step["argument"])
        for step in question["semantic"]
    )
