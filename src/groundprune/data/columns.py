"""Data sets in the columns that lmms-eval uses for the RefCOCO family, from the Hub or from a local folder or file.

Columns: question_id, image, question, answer (a list of expressions), segmentation, bbox (x, y, width, height in
pixels), iscrowd, file_name. The set of lmms-lab mixes expressions of the Google split into RefCOCO val: numbers from
it are not those of the official val.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from groundprune.boxes import Box
from groundprune.data.arrow_tables import Table, open_table
from groundprune.data.files import in_format
from groundprune.data.pictures import ImageFile, Picture, StoredImage
from groundprune.data.samples import Sample
from groundprune.errors import GroundPruneError

NEEDED = ("image", "answer", "bbox")


def table_samples(source: str, split: str, root: Path) -> list[Sample]:
    """source: see `open_table`. One sample an expression.

    An `image` may be a file inside of the table, or a path below `root`. Raises Unservable without the extra `eval`,
    and GroundPruneError for what cannot be read, a missing column or split.
    """
    table = open_table(source, split)
    missing = [column for column in NEEDED if column not in table.columns]
    if missing:
        has = ", ".join(table.columns)
        raise GroundPruneError(f"{source} lacks the columns {', '.join(missing)} (it has: {has})")
    found: list[Sample] = []
    with in_format(source, "lmms-eval's columns"):
        for number, row in enumerate(table.rows()):
            # One for all expressions of a row: its image is encoded once.
            picture = _picture(table, number, row, root)
            box, mask = Box.from_xywh(*row["bbox"]), row.get("segmentation")
            for i, expression in enumerate([row["answer"]] if isinstance(row["answer"], str) else row["answer"]):
                # question_id is not unique in every set.
                found.append(Sample(f"{number}-{i}", picture, "rec", "object", expression, box, None, split, mask))
    return found


def _picture(table: Table, number: int, row: dict[str, Any], root: Path) -> Picture:
    stored = table.image(number)
    if isinstance(stored, str):
        return ImageFile(root, stored)
    if stored.get("bytes") is None:
        return ImageFile(root, stored["path"])
    name = f"row {number} {row.get('file_name') or ''}".strip()
    return StoredImage(name, lambda: table.image(number)["bytes"], len(stored["bytes"]))
