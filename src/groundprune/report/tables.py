"""Comparison results as tables, on the terminal and in markdown: percent, one decimal.

One kind of figure: a value and, in brackets, its 95% interval (Wilson's of an accuracy, the paired bootstrap's of a
difference). Of several results, which are training seeds of one model: their mean, and the span of their intervals.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from groundprune.errors import GroundPruneError
from groundprune.evaluation.specs import MAIN_POSITIONS, Setting
from groundprune.evaluation.summary import Difference, Share, Summary
from groundprune.report import overview

DETAILED = ("cls-visual", "0.5")  # the pruner and keep shown by type of question, where they were run
EMPTY = "-"
LEFT_OUT_SHOWN = 3
T = TypeVar("T")
_TASKS: tuple[tuple[str, str], ...] = (("rec", "REC Acc@0.5"), ("vqa", "VQA"))


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


def print_tables(summary: Summary, console: Console) -> None:
    """Every table of one result, and below them what a reader must know about the numbers."""
    for grid in grids([summary]):
        narrow = grid.width > console.width  # what stands in brackets goes below its number, and the frame goes
        frame: dict[str, Any] = {"box": SIMPLE_HEAD, "show_edge": False, "padding": 0} if narrow else {}
        table = Table(title=grid.title, title_justify="left", header_style="bold", title_style="bold", **frame)
        for index, name in enumerate(grid.header):
            table.add_column(name, justify="left" if index < grid.left else "right", no_wrap=True)
        for row in grid.rows:
            table.add_row(*(Text(re.sub(r" (?=[\[(])", "\n", cell) if narrow else cell) for cell in row))
        console.print(table)
    for note in notes([summary]):
        console.print(note, style="dim", highlight=False, markup=False)


def markdown_table(results: Sequence[Summary]) -> str:
    """The same tables as markdown. results: of one model, or of several training seeds of it.

    Raises GroundPruneError for no results, or for results with different settings.
    """
    if not results:
        raise GroundPruneError("a table needs at least one result")
    parts = [f"**{grid.title}**\n\n{_markdown(grid)}" for grid in grids(results)]
    said = notes(results)
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
              for kind, task in _TASKS),
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
    return [grid for grid in found if grid.rows]


def _samples(result: Summary) -> str:
    """How many, and of what."""
    run = result.run
    if run.get("data") == "scenes":
        scenes = run.get("scenes", "?")
        return "1 expression and 1 question" if scenes == 1 else f"{scenes} expressions and as many questions"
    asked = result.settings[0]
    totals = ((asked.rec.total.n, "expression"), (asked.vqa.total.n, "question"))
    counts = " and ".join(f"{n:,} {what}{'s' * (n != 1)}" for n, what in totals if n)
    where = " ".join(dict.fromkeys((str(run.get("data")), str(run.get("split")))))  # a file is its own split
    return f"{counts} of {where}, protocol {run.get('protocol')}"


def notes(results: Sequence[Summary]) -> list[str]:
    """One sentence each: what a number is, how many samples, and what is missing."""
    first = results[0]
    samples = _samples(first)
    kind = "95% intervals (of accuracies Wilson's, of differences the paired bootstrap's)"
    if len(results) > 1:
        reach = f"mean over {len(results)} training seeds [span of their {kind}]; {samples} each"
    else:
        reach = f"in brackets {kind}; {samples}, seed {first.run.get('seed', '?')}"
    if len(results) == 1 and overview.many(first):
        found = [*overview.leaders(first), *overview.schedules(first)]
        found.append(f"Percent (REC: Acc@0.5); {samples}, seed {first.run.get('seed', '?')}.{_widths(first)}")
    else:
        found = [f"Percent (REC: Acc@0.5), {reach}."]
        found += [line for result in results for line in overview.schedules(result)][:1]
    found += overview.skipped(first)
    malformed = [
        (r.rec.malformed / r.rec.total.n, r.setting.label)
        for result in results
        for r in result.settings
        if r.rec.malformed
    ]
    if malformed:
        share, label = max(malformed)
        found.append(f"Answers without a readable box count as wrong; at most {_percent(share)}% ({label}).")
    left_out = first.about.get("unreadable")
    if left_out:
        shown = left_out["images"][:LEFT_OUT_SHOWN]
        more = len(left_out["images"]) - len(shown)
        why = "; ".join(shown) + (f"; and {more} more (see summary.json)" if more else "")
        found.append(f"Left out: {left_out['samples']} samples that cannot be asked. {why}.")
    if not all(result.complete for result in results):
        found.append("Not complete: the run was interrupted, or is still going on.")
    return found


def _main(results: Sequence[Summary], settings: Sequence[Setting]) -> Grid:
    pruned = [s for s in settings if s.pruner and s.positions in MAIN_POSITIONS]
    shown = [p for p in MAIN_POSITIONS if any(s.positions == p for s in pruned)]
    # Several columns of numbers: two lines of heading let them fit a terminal of 80 columns.
    header = ["pruner", "keep\n(tokens)", *(f"{kind.upper()}\n{p}" for kind, _ in _TASKS for p in shown)]
    rows: list[list[str]] = []
    if shown:
        # Where nothing is dropped both policies give the stock model's ids.
        cells = [_accuracy(results, Setting(), kind) for kind, _ in _TASKS for _ in shown]
        rows.append(["unpruned", _kept(results, Setting()), *cells])
    for setting in {(s.pruner, s.budget): s for s in pruned}.values():
        cells = [_accuracy(results, _under(setting, p), kind) for kind, _ in _TASKS for p in shown]
        rows.append([_name(setting), f"{setting.budget} {_kept(results, setting)}", *cells])
    return Grid("Accuracy by pruner and position policy", header, rows, left=2)


def _gains(results: Sequence[Summary]) -> Grid:
    found = {(d.pruner, d.budget, d.kind): d for d in results[0].differences}
    rows: list[list[str]] = []
    for pruner, budget in dict.fromkeys((pruner, budget) for pruner, budget, _ in found):
        cells = [_gain(results, pruner, budget, kind) for kind, _ in _TASKS]
        rows.append([_short(pruner), budget, *cells])
    return Grid("Preserved minus reassigned", ["pruner", "keep", *(t for _, t in _TASKS)], rows, left=2)


def _types(results: Sequence[Summary], settings: Sequence[Setting]) -> Grid:
    """Which questions ask for positions: one setting, by type of question."""
    both = [
        s
        for s in settings
        if s.pruner and s.positions == MAIN_POSITIONS[0] and _under(s, MAIN_POSITIONS[1]) in settings
    ]
    if not both:
        return Grid("", [], [], left=0)
    shown = next((s for s in both if (s.pruner, s.keep) == DETAILED), both[0])
    columns = [Setting(), *(_under(shown, positions) for positions in MAIN_POSITIONS)]
    rows: list[list[str]] = []
    for kind, task in _TASKS:
        result = results[0].result(shown.id)
        types = [] if result is None else getattr(result, kind).types
        rows += [[task, t, *(_accuracy(results, s, kind, t) for s in columns)] for t in types]
    title = f"By type of question, {_name(shown)} at {shown.budget}"
    return Grid(title, ["task", "type", "unpruned", *MAIN_POSITIONS], rows, left=2)


def _others(results: Sequence[Summary], settings: Sequence[Setting]) -> Grid:
    rows: list[list[str]] = []
    for setting in settings:
        if setting.pruner and setting.positions not in MAIN_POSITIONS:
            cells = [_accuracy(results, setting, kind) for kind, _ in _TASKS]
            rows.append([_name(setting), setting.budget or EMPTY, setting.positions, *cells])
    return Grid("Other position policies", ["pruner", "keep", "positions", *(t for _, t in _TASKS)], rows, left=3)


def _whole(results: Sequence[Summary], settings: Sequence[Setting]) -> Grid:
    alone = [s for s in settings if s.pruner is None]
    rows = [
        ["unchanged" if s.plain else s.positions, *(_accuracy(results, s, kind) for kind, _ in _TASKS)] for s in alone
    ]
    # The unpruned model alone is in the main table already.
    shown = rows if len(rows) > 1 or not _main(results, settings).rows else []
    return Grid("Nothing dropped, only ids changed", ["positions", *(t for _, t in _TASKS)], shown, left=1)


def _under(setting: Setting, positions: str) -> Setting:
    return replace(setting, positions=positions)


def _kept(results: Sequence[Summary], setting: Setting) -> str:
    """How many visual tokens the LLM read, in brackets."""
    result = results[0].result(setting.id)
    return "" if result is None or result.kept is None else f"({result.kept:g})"


def _accuracy(results: Sequence[Summary], setting: Setting, kind: str, question_type: str | None = None) -> str:
    def share(result: Summary) -> Share | None:
        found = result.result(setting.id)
        if found is None:
            return None
        task = getattr(found, kind)
        asked = task.total if question_type is None else task.types.get(question_type)
        return asked if asked is not None and asked.n else None

    return _figure([(s.accuracy, s.interval) for s in _each(results, share)])


def _gain(results: Sequence[Summary], pruner: str, budget: str, kind: str) -> str:
    def difference(result: Summary) -> Difference | None:
        key = (pruner, budget, kind)
        return next((d for d in result.differences if (d.pruner, d.budget, d.kind) == key), None)

    return _figure([(d.difference, d.interval) for d in _each(results, difference)], "+.1f")


def _each(results: Sequence[Summary], get: Callable[[Summary], T | None]) -> list[T]:
    """What every result has; nothing where one of them lacks it: a mean over fewer seeds would not say so."""
    found = [value for value in map(get, results) if value is not None]
    return found if len(found) == len(results) else []


def _figure(found: Sequence[tuple[float, tuple[float, float]]], form: str = ".1f") -> str:
    """The mean of (value, interval), and the span of the intervals: it holds what questions and trainings vary by."""
    if not found:
        return EMPTY
    values, lows, highs = zip(*((value, *interval) for value, interval in found), strict=True)
    mean, low, high = (f"{100 * value:{form}}" for value in (statistics.fmean(values), min(lows), max(highs)))
    return f"{mean} [{low}, {high}]"


def _widths(result: Summary) -> str:
    """How wide the intervals are that a table of many pruners has no room for."""
    shares = [share for r in result.settings for share in (r.rec.total, r.vqa.total) if share.n]
    widths = [100 * (high - low) for low, high in (share.interval for share in shares)]
    return f" A 95% Wilson interval is {min(widths):.0f} to {max(widths):.0f} points wide." if widths else ""


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _name(setting: Setting) -> str:
    return _short(setting.pruner or "unpruned")


def _short(pruner: str) -> str:
    """A pruner of one's own goes by its class."""
    return pruner.rpartition(":")[2]


def _markdown(grid: Grid) -> str:
    rule = [":--" if index < grid.left else "--:" for index in range(len(grid.header))]
    header = [name.replace("\n", " ") for name in grid.header]
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, rule, *grid.rows])
