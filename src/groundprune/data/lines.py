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
            boxes = row.get("others")
            others = None if boxes is None else tuple(Box(*box) for box in boxes)
            if "expression" in row:
                box = Box(*row["bbox"]) if "bbox" in row else Box.from_xywh(*row["bbox_xywh"])
                kind, usual, text, answer = "rec", "object", row["expression"], None
            else:
                kind, usual, text, box, answer = "vqa", "question", row["question"], None, row["answer"]
            id, type = str(row.get("id", number)), row.get("type", usual)
            found.append(Sample(id, picture, kind, type, text, box, answer, path.stem, row.get("mask"), others))
    return found
