"""Comparison results as tables, on the terminal and in markdown: percent, one decimal.

One kind of figure: a value and, in brackets, its 95% interval (Wilson's of an accuracy, the paired bootstrap's of a
difference). Of several results, which are training seeds of one model: their mean, and the span of their intervals.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from groundprune.errors import GroundPruneError
from groundprune.evaluation.specs import MAIN_POSITIONS, Setting
from groundprune.evaluation.summary import Summary, Task
from groundprune.pruners.spec import short_name
from groundprune.report import overview
from groundprune.report.cells import EMPTY, accuracy, gain, kept
from groundprune.report.cost_table import cost_rows
from groundprune.report.notes import cost_notes, notes

DETAILED = ("cls-visual", "0.5")  # the pruner and keep shown by type of question, where they were run
_TASKS: tuple[tuple[str, str], ...] = (("rec", "REC Acc@0.5"), ("vqa", "VQA"))
_OUTLINES: tuple[tuple[str, str], ...] = (("seg", "Pr@0.5"),)
_POINTS: tuple[tuple[str, str], ...] = (("point", "point in box"),)
_PARTS = ("text", "icon")  # the last word of a type, where interfaces are asked about


@dataclass(frozen=True)
class Grid:
    """One table. left: how many columns hold words; the others hold numbers."""

    title: str
    header: list[str]
    rows: list[list[str]]
    left: int

    @property
    def width(self) -> int:
        """Characters that a terminal needs for it, lines between the columns included."""
        columns = [[*name.split("\n"), *cells] for name, *cells in zip(self.header, *self.rows, strict=True)]
        return sum(max(map(len, column)) for column in columns) + 3 * len(columns) + 1


def print_tables(summary: Summary, console: Console, with_costs: bool = False) -> None:
    """Every table of one result, and below them what a reader must know about the numbers.

    with_costs: that of what answers cost, too.
    """
    shown = grids([summary])
    for grid in [*shown, *costs([summary])] if with_costs else shown:
        narrow = grid.width > console.width  # what stands in brackets goes below its number, and the frame goes
        frame: dict[str, Any] = {"box": SIMPLE_HEAD, "show_edge": False, "padding": 0} if narrow else {}
        table = Table(title=grid.title, title_justify="left", header_style="bold", title_style="bold", **frame)
        for index, name in enumerate(grid.header):
            table.add_column(name, justify="left" if index < grid.left else "right", no_wrap=True)
        for row in grid.rows:
            table.add_row(*(Text(re.sub(r" (?=[\[(])", "\n", cell) if narrow else cell) for cell in row))
        console.print(table)
    for note in [*notes([summary]), *(cost_notes([summary]) if with_costs else ())]:
        console.print(note, style="dim", highlight=False, markup=False)


def markdown_table(results: Sequence[Summary]) -> str:
    """The same tables as markdown. results: of one model, or of several training seeds of it.

    Raises GroundPruneError for no results, or for results with different settings.
    """
    if not results:
        raise GroundPruneError("a table needs at least one result")
    parts = [f"**{grid.title}**\n\n{_markdown(grid)}" for grid in [*grids(results), *costs(results)]]
    said = [*notes(results), *cost_notes(results)]
    told = "\n".join(f"- {note}" for note in said) if len(said) > 4 else " ".join(said)
    return "\n\n".join([*parts, told]) + "\n"


def grids(results: Sequence[Summary]) -> list[Grid]:
    """The tables that have something to show. Raises GroundPruneError where results differ in their settings."""
    ids = [[r.setting.id for r in result.settings] for result in results]
    if any(set(other) != set(ids[0]) for other in ids[1:]):
        raise GroundPruneError("the results to average have different settings")
    settings = [r.setting for r in results[0].settings]
    if len(results) == 1 and overview.many(results[0]):
        found = [
            *(Grid(f"{task} by position policy and keep", *overview.overview(results[0], kind), left=2)
              for kind, task in tasks(results)),
            _whole(results, settings),
        ]  # fmt: skip
    else:
        found = [
            _main(results, settings),
            _gains(results),
            _types(results, settings),
            _others(results, settings),
            _whole(results, settings),
        ]
    found += [_outlines(results, settings), _points(results, settings)]
    return [grid for grid in found if grid.rows]


def costs(results: Sequence[Summary]) -> list[Grid]:
    """The table of what answers cost; none where nothing of it is stored."""
    header, rows = cost_rows(results)
    return [Grid("Costs per answer", header, rows, left=3)] if rows else []


def tasks(results: Sequence[Summary]) -> tuple[tuple[str, str], ...]:
    """Kinds of questions, and what a right answer of each is called; outlines or points where they were asked for."""
    for told in (_OUTLINES, _POINTS):
        if any(r.tasks[told[0][0]].total.n for result in results for r in result.settings):
            return told
    return _TASKS


def _outlines(results: Sequence[Summary], settings: Sequence[Setting]) -> Grid:
    """What segmentation is usually told in, beside the share of right answers."""
    rows: list[list[str]] = []
    for setting in settings if tasks(results) is _OUTLINES else ():
        found = [result.result(setting.id) for result in results]
        of = [r.seg for r in found if r is not None and r.seg.mean_iou is not None]
        if len(of) == len(results):
            means = [[t.mean_iou for t in of], [t.overall_iou or 0.0 for t in of], [t.total.accuracy for t in of]]
            rows.append([setting.label, *(f"{100 * statistics.fmean(m):.1f}" for m in means if None not in m)])
    return Grid("Masks", ["setting", "mIoU", "oIoU", "Pr@0.5"], rows, left=1)


def _points(results: Sequence[Summary], settings: Sequence[Setting]) -> Grid:
    """Per setting; of interfaces also what is text and what is an icon, as ScreenSpot is told in."""
    rows: list[list[str]] = []
    found = {s.id: [r.point for result in results if (r := result.result(s.id)) is not None] for s in settings}
    types = [t for of in found.values() for task in of for t in task.types]
    parts = [part for part in _PARTS if any(t.split()[-1:] == [part] for t in types)]
    for setting in settings if tasks(results) is _POINTS else ():
        of = found[setting.id]
        if len(of) == len(results) and all(task.total.n for task in of):
            shares = [[_part(task, part) for task in of] for part in parts]
            told = [statistics.fmean(task.total.accuracy for task in of), *map(statistics.fmean, shares)]
            wrong = sum(task.malformed or 0 for task in of)
            rows.append([setting.label, *(f"{100 * share:.1f}" for share in told), str(wrong)])
    return Grid("Points", ["setting", "all", *parts, "malformed"], rows, left=1)


def _part(task: Task, part: str) -> float:
    of = [share for type, share in task.types.items() if type.split()[-1:] == [part]]
    return sum(share.correct for share in of) / max(1, sum(share.n for share in of))


def _main(results: Sequence[Summary], settings: Sequence[Setting]) -> Grid:
    pruned = [s for s in settings if s.pruner and s.positions in MAIN_POSITIONS]
    shown = [p for p in MAIN_POSITIONS if any(s.positions == p for s in pruned)]
    # Several columns of numbers: two lines of heading let them fit a terminal of 80 columns.
    header = ["pruner", "keep\n(tokens)", *(f"{kind.upper()}\n{p}" for kind, _ in tasks(results) for p in shown)]
    rows: list[list[str]] = []
    if shown:
        # Where nothing is dropped both policies give the stock model's ids.
        cells = [accuracy(results, Setting(), kind) for kind, _ in tasks(results) for _ in shown]
        rows.append(["unpruned", kept(results, Setting()), *cells])
    for setting in {(s.pruner, s.budget): s for s in pruned}.values():
        cells = [accuracy(results, _under(setting, p), kind) for kind, _ in tasks(results) for p in shown]
        rows.append([_name(setting), f"{setting.budget} {kept(results, setting)}", *cells])
    return Grid("Accuracy by pruner and position policy", header, rows, left=2)


def _gains(results: Sequence[Summary]) -> Grid:
    found = {(d.pruner, d.budget, d.kind): d for d in results[0].differences}
    rows: list[list[str]] = []
    for pruner, budget in dict.fromkeys((pruner, budget) for pruner, budget, _ in found):
        cells = [gain(results, pruner, budget, kind) for kind, _ in tasks(results)]
        rows.append([short_name(pruner), budget, *cells])
    return Grid("Preserved minus reassigned", ["pruner", "keep", *(t for _, t in tasks(results))], rows, left=2)


def _types(results: Sequence[Summary], settings: Sequence[Setting]) -> Grid:
    """Which questions ask for positions: one setting, by type of question."""
    both = [
        s
        for s in settings
        if s.pruner and s.positions == MAIN_POSITIONS[0] and _under(s, MAIN_POSITIONS[1]) in settings
    ]
    if not both and tasks(results) is not _POINTS:
        return Grid("", [], [], left=0)
    shown = next((s for s in both if (s.pruner, s.keep) == DETAILED), [*both, Setting()][0])
    columns = [Setting(), *(_under(shown, positions) for positions in MAIN_POSITIONS if both)]
    rows: list[list[str]] = []
    for kind, task in tasks(results):
        result = results[0].result(shown.id)
        types = [] if result is None else getattr(result, kind).types
        rows += [[task, t, *(accuracy(results, s, kind, t) for s in columns)] for t in types]
    title = f"By type of question, {_name(shown)} at {shown.budget}" if both else "By type of question"
    return Grid(title, ["task", "type", "unpruned", *(MAIN_POSITIONS if both else ())], rows, left=2)


def _others(results: Sequence[Summary], settings: Sequence[Setting]) -> Grid:
    rows: list[list[str]] = []
    for setting in settings:
        if setting.pruner and setting.positions not in MAIN_POSITIONS:
            cells = [accuracy(results, setting, kind) for kind, _ in tasks(results)]
            rows.append([_name(setting), setting.budget or EMPTY, setting.positions, *cells])
    return Grid(
        "Other position policies", ["pruner", "keep", "positions", *(t for _, t in tasks(results))], rows, left=3
    )


def _whole(results: Sequence[Summary], settings: Sequence[Setting]) -> Grid:
    alone = [s for s in settings if s.pruner is None]
    rows = [
        ["unchanged" if s.plain else s.positions, *(accuracy(results, s, kind) for kind, _ in tasks(results))]
        for s in alone
    ]
    # The unpruned model alone is in the main table already.
    shown = rows if len(rows) > 1 or not _main(results, settings).rows else []
    return Grid("Nothing dropped, only ids changed", ["positions", *(t for _, t in tasks(results))], shown, left=1)


def _under(setting: Setting, positions: str) -> Setting:
    return replace(setting, positions=positions)


def _name(setting: Setting) -> str:
    return short_name(setting.pruner or "unpruned")


def _markdown(grid: Grid) -> str:
    rule = [":--" if index < grid.left else "--:" for index in range(len(grid.header))]
    header = [name.replace("\n", " ") for name in grid.header]
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, rule, *grid.rows])
