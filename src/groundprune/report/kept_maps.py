"""Which visual tokens a setting kept, as the rows of its answers say it, and drawn over the image."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from groundprune.boxes import Box, make_frame
from groundprune.data import Sample
from groundprune.errors import GroundPruneError
from groundprune.evaluation.rows import kept_grids
from groundprune.evaluation.specs import Setting
from groundprune.report.overlay import KeptMap


def kept_maps(
    run: Mapping[str, Any],
    rows: Mapping[tuple[str, str], Mapping[str, Any]],
    setting: Setting,
    samples: Iterable[Sample],
) -> dict[str, KeptMap]:
    """What was kept of these samples under `setting`, by sample id.

    run: `Summary.run`. rows: see `read_rows`. A sample that the model sees as more than one grid is left out.

    Raises GroundPruneError where no row says it.
    """
    grounding = run.get("grounding")
    answered = [(s, row) for s in samples if (row := rows.get((setting.id, s.id))) is not None]
    said = [(s, grids) for s, row in answered if (grids := kept_grids(row)) is not None]
    if not said or not grounding:
        raise GroundPruneError("these results do not store them (an older version wrote them, or vLLM answered)")
    return {
        s.id: KeptMap(grids[0], make_frame(grounding["frame"], *s.image.size)) for s, grids in said if len(grids) == 1
    }


def dropped_path(kept: KeptMap | None) -> str:
    """Runs of dropped cells as rectangles, and what the model did not see at all (the sides of a crop).

    "" where it is not known what was dropped.
    """
    if kept is None:
        return ""
    rows, cols = kept.grid.shape
    frame = kept.frame
    boxes: list[Box] = []
    for row in range(rows):
        edges = np.flatnonzero(np.diff(np.concatenate([[False], ~kept.grid[row], [False]])))
        for start, end in edges.reshape(-1, 2):
            boxes.append(frame.to_pixels(Box(start / cols, row / rows, end / cols, (row + 1) / rows)))
    seen = frame.to_pixels(Box(0, 0, 1, 1))
    boxes += [
        Box(0, 0, frame.width, seen.y1),
        Box(0, seen.y2, frame.width, frame.height),
        Box(0, seen.y1, seen.x1, seen.y2),
        Box(seen.x2, seen.y1, frame.width, seen.y2),
    ]
    drawn = [box for box in boxes if box.x2 > box.x1 and box.y2 > box.y1]
    return "".join(f"M{b.x1:.6g} {b.y1:.6g}H{b.x2:.6g}V{b.y2:.6g}H{b.x1:.6g}z" for b in drawn)


def border_path(kept: KeptMap | None) -> str:
    """The lines between kept and dropped cells; "" where it is not known which are."""
    if kept is None:
        return ""
    rows, cols = kept.grid.shape
    upright = [(r, c + 1, r + 1, c + 1) for r, c in np.argwhere(np.diff(kept.grid, axis=1))]
    level = [(r + 1, c, r + 1, c + 1) for r, c in np.argwhere(np.diff(kept.grid, axis=0))]
    units = [
        Box(left / cols, top / rows, right / cols, bottom / rows) for top, left, bottom, right in upright + level
    ]
    return "".join(f"M{b.x1:.6g} {b.y1:.6g}L{b.x2:.6g} {b.y2:.6g}" for b in map(kept.frame.to_pixels, units))
