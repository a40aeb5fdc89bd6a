"""One page of an audit: the verdict, and each layer's ids over the image. Nothing is fetched, and no script runs.

A cell is a visual token. Its colour and number are the id by which its key was rotated, dropped tokens are empty, and
what does not hold its own id has a frame. Of three axes each is a picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.colors import to_hex

from groundprune.audits.result import Audit, AuditRow, AuditStage, kernels_line
from groundprune.errors import GroundPruneError
from groundprune.report.labels import contrast
from groundprune.report.style import LEVELS
from groundprune.report.writing import replacing

AXES = ("time", "height", "width")
MOST_ROWS = 4  # of a batch that are drawn
_CLOSE = 0.2  # ids that differ by less are one


@dataclass(frozen=True)
class Cell:
    """A token in a grid. x, y: its place; colour: of the ground, "" where it was dropped; ink: of the number."""

    x: int
    y: int
    colour: str
    ink: str
    label: str
    moved: bool
    said: str


@dataclass(frozen=True)
class Picture:
    """One axis of the ids of one stage over all tiles of a row's images, side by side."""

    title: str
    width: int
    height: int
    cells: Sequence[Cell]
    beside: str


@dataclass(frozen=True)
class Panel:
    """One row of the batch: the unpruned ids first, then those of each stage."""

    row: AuditRow
    stages: Sequence[tuple[AuditStage | None, Sequence[Picture]]]


def write_audit_page(audit: Audit, path: str | Path, name: str = "") -> None:
    """Write the page.

    Args:
        audit: what was found.
        path: of the file.
        name: of the code that was audited.

    Raises:
        GroundPruneError: the disk refuses.
    """
    page = render_audit(audit, name)
    try:
        with replacing(Path(path)) as draft:
            draft.write_text(page, encoding="utf-8", newline="\n")
    except OSError as error:
        raise GroundPruneError(f"cannot write {path}: {error.strerror or error}") from error


def render_audit(audit: Audit, name: str = "") -> str:
    """The page; a function of its arguments alone."""
    environment = Environment(
        loader=PackageLoader("groundprune.report"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    style = Path(__file__).parent / "templates" / "report.css"
    head, _, reasons = audit.verdict.partition(": ")
    return environment.get_template("audit.html").render(
        audit=audit,
        name=name,
        head=head,
        reasons=reasons.split("; ") if reasons else [],
        kernels=kernels_line(audit),
        panels=[_panel(row) for row in audit.rows[:MOST_ROWS]],
        style=Markup(style.read_text(encoding="utf-8")),
    )


def _panel(row: AuditRow) -> Panel:
    axes = len(row.own[0]) if row.own else 1
    every = [(row.own, tuple(range(row.tokens))), *((stage.positions, stage.holds) for stage in row.stages)]
    shown = [axis for axis in range(axes) if any(_differ(row, axis, *each) for each in every)] or [0]
    names = [AXES[axis] if axes > 1 else "" for axis in shown]
    pictures = [
        [_picture(row, axis, positions, holds, name) for axis, name in zip(shown, names, strict=True)]
        for positions, holds in every
    ]
    return Panel(row, list(zip([None, *row.stages], pictures, strict=True)))


def _differ(
    row: AuditRow, axis: int, positions: Sequence[tuple[float, ...] | None], holds: Sequence[int | None]
) -> bool:
    """Whether ids of an axis are more than one, or other than those of the unpruned row."""
    told = [p[axis] - row.together for p, token in zip(positions, holds, strict=True) if p and token is not None]
    if positions is row.own:
        told = [p[axis] for p in row.own]
    return len({round(value, 1) for value in [*told, *(p[axis] for p in row.own)]}) > 1


def _picture(
    row: AuditRow, axis: int, positions: Sequence[tuple[float, ...] | None], holds: Sequence[int | None], title: str
) -> Picture:
    own = [p[axis] for p in row.own]
    low, high = min(own, default=0.0), max(own, default=0.0)
    places, width, height = _places(row)
    told = {token: position for token, position in zip(holds, positions, strict=True) if token is not None}
    cells = []
    for token, (x, y) in places.items():
        if token not in told:
            cells.append(Cell(x, y, "", "", "", False, f"token {token}: dropped"))
            continue
        position = told[token]
        if position is None:
            cells.append(Cell(x, y, "", "currentColor", "?", False, f"token {token}: could not tell"))
            continue
        value = position[axis] - row.together
        share = (value - low) / (high - low) if high > low else 0.5
        colour = to_hex(matplotlib.colormaps[LEVELS](min(1.0, max(0.0, share))))
        said = f"token {token}: id {_number(value)}, its own is {_number(own[token])}"
        moved = abs(value - own[token]) > _CLOSE
        cells.append(Cell(x, y, colour, contrast(colour), _number(value), moved, said))
    others = [p for token, p in zip(holds, positions, strict=True) if token is None or token not in places]
    beside = ", ".join("?" if p is None else _number(p[axis] - row.together) for p in others)
    return Picture(title, width, height, cells, beside)


def _places(row: AuditRow) -> tuple[dict[int, tuple[int, int]], int, int]:
    """(per token its column and row in the picture, width, height), in cells: tiles stand side by side."""
    tiles: dict[tuple[int, int], list[tuple[int, int, int]]] = {}
    for token, (image, tile, y, x) in enumerate(row.grid):
        if y >= 0:
            tiles.setdefault((image, tile), []).append((token, x, y))
    places: dict[int, tuple[int, int]] = {}
    left = 0
    for cells in tiles.values():
        places |= {token: (left + x, y) for token, x, y in cells}
        left += max(x for _, x, _ in cells) + 2
    return places, max(1, left - 1), max((y for _, y in places.values()), default=0) + 1


def _number(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
