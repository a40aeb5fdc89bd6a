"""Data of one's own: a JSONL file, one request a line.

    {"image": "kitchen/a.jpg", "expression": "the left mug", "bbox_xywh": [10, 20, 30, 40]}
    {"image": "kitchen/a.jpg", "question": "what colour is the mug?", "answer": "red"}

image: a path below the data root, by default the file's own folder. bbox: x1, y1, x2, y2, or bbox_xywh; pixels.
id, type and mask may be given as well, and others: boxes of what else is in the image, each x1, y1, x2, y2.
"""

from __future__ import annotations

from pathlib import Path

from groundprune.boxes import Box
from groundprune.data.files import in_format, read_lines
from groundprune.data.pictures import ImageFile
from groundprune.data.samples import Sample


def line_samples(path: Path, root: Path | None = None) -> list[Sample]:
    """Raises GroundPruneError, naming the line, for one that is no request."""
    found = []
    for number, row in enumerate(read_lines(path), start=1):
        with in_format(f"{path}, request {number},", "a request"):
            picture = ImageFile(path.parent if root is None else root, row["image"])
            id, mask = str(row.get("id", number)), row.get("mask")
            others = tuple(Box(*box) for box in row["others"]) if "others" in row else None
            if "expression" in row:
                box = Box(*row["bbox"]) if "bbox" in row else Box.from_xywh(*row["bbox_xywh"])
                asked = Sample(
                    id,
                    picture,
                    "rec",
                    row.get("type", "object"),
                    row["expression"],
                    box,
                    None,
                    path.stem,
                    mask,
                    others,
                )
            else:
                asked = Sample(
                    id,
                    picture,
                    "vqa",
                    row.get("type", "question"),
                    row["question"],
                    None,
                    row["answer"],
                    path.stem,
                    others=others,
                )
            found.append(asked)
    return found
