"""Settings of the study `mechanism`, and what one run gave under them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from groundprune.evaluation.specs import Setting
from groundprune.studies.parts.effects import Effect, told_share
from groundprune.studies.parts.following import CELLS, displacements, mean
from groundprune.studies.parts.moving import AXES, PARTS
from groundprune.studies.study import Run, Table

UNPRUNED = Setting.of()
STEPS = (-3, -2, -1, 1, 2, 3)
QUICK_STEPS = (-1, 1, 2)
COUNTS = (1, 2, 4, 8, 16, 32, 64, 128)
QUICK_COUNTS = (1, 4, 16, 64)
WAYS = ("displaced", "permuted")


def shift(part: str, axis: str, by: int) -> Setting:
    """Unpruned, the ids of a part moved by so many cells."""
    return replace(UNPRUNED, intervention=name(part, axis, by))


def astray(how: str, count: int | None) -> Setting:
    """Unpruned, so many ids wrong; None = all."""
    return replace(UNPRUNED, intervention=f"{how}-{count or 'all'}")


def name(part: str, axis: str, by: int) -> str:
    """Of the intervention, see `moved`."""
    return f"{part.replace(' ', '-')}-{axis}{by:+d}"


def movement(run: Run, part: str, axis: str, by: int = 1) -> Effect:
    """Cells that boxes went along an axis when the ids of a part did, on average.

    Of boxes that would leave the image with what is moved nothing is counted: ids would go on in the next row.
    """
    room = {"target": by, "grid": by, "one of the target": by, "text": -by}.get(part, 0)
    return mean(run.model, list(displacements(run, UNPRUNED, shift(part, axis, by), axis, room).values()))


def curve(run: Run, how: str) -> dict[int, Setting]:
    """Settings by how many ids are wrong; "all" by how many there are, where that was measured."""
    found: dict[int, Setting] = {k: astray(how, k) for k in COUNTS}
    total = ids_of(run)
    return {k: s for k, s in found.items() if not total or k < total} | ({total: astray(how, None)} if total else {})


def ids_of(run: Run) -> int:
    """Patches of an image, the least of all; 0 where it was not measured."""
    grids = [about["grid"] for about in run.measured.get(CELLS, {}).values()]
    return min((rows * cols for rows, cols in grids), default=0)


def at(run: Run, axis: str, by: int) -> Effect:
    """`movement` with the target; by 0 nothing was run."""
    return movement(run, "target", axis, by) if by else mean(run.model, [])


def of_target(axis: str) -> Mapping[int, Setting]:
    """Settings by shift."""
    return {by: shift("target", axis, by) for by in STEPS}


def parts_table(runs: Sequence[Run]) -> Table:
    """Every part by one cell: where the box went, and how often it was still right."""
    rows = []
    for part, axis in ((part, axis) for part in PARTS for axis in AXES):
        moves = [movement(run, part, axis) for run in runs]
        shares = [run.share(shift(part, axis, 1), "rec") for run in runs]
        cells = [f"{e.value:+.2f} [{e.low:+.2f}, {e.high:+.2f}]" if e.n else "-" for e in moves]
        rows.append([part, axis, *cells, *map(told_share, shares)])
    header = ["ids of", "by one", *(f"box, cells, {run.model}" for run in runs)]
    return Table("What moves the box", [*header, *(f"right, %, {run.model}" for run in runs)], rows)


def wrong_table(runs: Sequence[Run]) -> Table:
    """Accuracy over the number of wrong ids."""
    header = ["wrong ids", *(f"{how}, {run.model}" for how in WAYS for run in runs)]
    counts = [k for k in (*COUNTS, None) if any(run.share(astray(how, k), "rec").n for how in WAYS for run in runs)]
    rows = [
        [str(k or "all"), *(told_share(run.share(astray(how, k), "rec")) for how in WAYS for run in runs)]
        for k in counts
    ]
    return Table("Right answers in percent, over how many ids are wrong", header, rows)
