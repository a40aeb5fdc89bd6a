"""The rows of a samples.jsonl: read, checked, and which tokens they say were kept."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from groundprune.errors import GroundPruneError
from groundprune.evaluation.disk import replace
from groundprune.tokens.layout import VisualLayout

# What every row has; `grids` and `kept_cells` came later.
ROW_KEYS = ("setting", "sample", "kind", "type", "answer", "correct", "iou", "box", "kept")


@dataclass(frozen=True, eq=False)
class KeptCells:
    """Which cells of an image hold a kept token. grids: Bool[rows, cols] of its patches, one, or one per tile."""

    grids: list[np.ndarray]

    @staticmethod
    def of(layout: VisualLayout, kept: Tensor) -> KeptCells:
        """kept: Long[K], indices into the layout. Newlines and separators have no cell: they always stay."""
        layout, found = layout.to("cpu"), []
        chosen = np.zeros(len(layout), dtype=bool)
        chosen[kept.cpu().numpy()] = True
        for group in layout.groups():
            grid = np.zeros(layout.grid(group), dtype=bool)
            grid[layout.row[group].numpy(), layout.col[group].numpy()] = chosen[group.numpy()]
            found.append(grid)
        return KeptCells(found)

    def to_row(self) -> dict[str, Any]:
        """The part of a row that says it, see `groundprune.evaluation.results`."""
        bits = np.concatenate([np.zeros(0, dtype=bool), *(grid.ravel() for grid in self.grids)])
        return {"grids": [list(grid.shape) for grid in self.grids], "kept_cells": np.packbits(bits).tobytes().hex()}


def kept_grids(row: Mapping[str, Any]) -> list[np.ndarray] | None:
    """Which cells of the image hold a token that was kept, of a row of `read_rows`.

    Returns:
        Bool[rows, cols] per grid of patches that the image was to the model: one, or one per tile. None where the
        row does not say it: nothing was pruned, or an older version or vLLM wrote it.

    Raises:
        GroundPruneError: the row was changed, and says nonsense.
    """
    if row.get("grids") is None or row.get("kept_cells") is None:
        return None
    try:
        shapes = [(int(rows), int(cols)) for rows, cols in row["grids"]]
        sizes = [rows * cols for rows, cols in shapes]
        bits = np.unpackbits(np.frombuffer(bytes.fromhex(row["kept_cells"]), dtype=np.uint8)).astype(bool)
        if not 0 <= len(bits) - sum(sizes) < 8:
            raise ValueError(f"{len(bits)} bits for {sum(sizes)} cells")
        starts = np.cumsum([0, *sizes])
        parts = [bits[start : start + size] for start, size in zip(starts, sizes, strict=False)]
        return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]
    except (TypeError, ValueError) as error:
        raise GroundPruneError(f"sample {row.get('sample')}: no kept cells ({error})") from error


def read_rows(path: str | Path, repair: bool = False) -> dict[tuple[str, str], dict[str, Any]]:
    """The rows of a samples.jsonl, by (setting, sample).

    A last line that was not written to its end (the run was killed) is left out, and so is a repetition of a line
    that is there; repair: also cut from the file. Raises GroundPruneError, naming the line, for any other line that
    is no row, and for a second answer of one sample.
    """
    path = Path(path)
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    kept: list[bytes] = []
    for number, line in enumerate(whole.splitlines(keepends=True), start=1):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict) or any(key not in row for key in ROW_KEYS):
            raise GroundPruneError(f"{path}, line {number}: not a result row")
        if rows.get((row["setting"], row["sample"])) != row:
            insert(rows, row, f"{path}, line {number}")
            kept.append(line)
    if repair and (healed := b"".join(kept)) != content:
        replace(path, healed.decode("utf-8"))
    return rows


def insert(rows: dict[tuple[str, str], dict[str, Any]], row: dict[str, Any], where: str) -> None:
    """Raises GroundPruneError, naming `where`, for a second answer of one sample."""
    key = (row["setting"], row["sample"])
    if key in rows:
        raise GroundPruneError(f"{where}: sample {key[1]} of {key[0]} is there twice, with two answers: keep one")
    rows[key] = row
