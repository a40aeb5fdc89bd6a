"""The loop over settings and samples: what is missing is answered, stored and summarised, whatever engine answers."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from groundprune.data.samples import Sample
from groundprune.errors import Unservable
from groundprune.evaluation.costs import ENCODING
from groundprune.evaluation.parts import Part
from groundprune.evaluation.processes import ALONE, Ranks
from groundprune.evaluation.results import Results
from groundprune.evaluation.specs import Setting
from groundprune.evaluation.summary import Summary


class AnyRunner(Protocol):
    """What answers: `Runner`, or the runner of another engine. Its methods are those of `Runner`.

    One that `run` must first start says by an empty list that answering begins, which is timed from there.
    """

    samples: list[Sample]
    unreadable: dict[str, str]

    def check(self, settings: Iterable[Setting]) -> None: ...
    def leave_out_unreadable(self, among: Collection[str]) -> None: ...
    def prepare(self, settings: Iterable[Setting], advance: Callable[[int], None]) -> None: ...
    def run(self, setting: Setting, done: Collection[str]) -> Iterator[list[dict[str, Any]]]: ...
    def free(self) -> None: ...


def answer_all(
    runners: Sequence[AnyRunner],
    settings: Sequence[Setting],
    run: Mapping[str, Any],
    about: dict[str, Any],
    out: str | Path | None = None,
    progress: bool = True,
    console: Console | None = None,
    ranks: Ranks = ALONE,
) -> Summary:
    """Give every sample of the runners its missing answers, one runner after the other. See `Results`, `compare`.

    ranks: the processes that share the work; the runners must know of the same.
    """
    console = console or Console(stderr=True)
    samples = sum(len(runner.samples) for runner in runners)
    with contextlib.ExitStack() as held:
        with ranks.agreed():
            skipped = unservable(runners[0], settings)
            folder = out if ranks.main else None
            results = held.enter_context(Results(folder, run, about, settings, samples))
        with ranks.agreed():
            part = held.enter_context(Part(out, ranks)) if ranks.count > 1 else None
        given = {setting.id for setting in settings}
        before = {id: why for id, why in results.about.get("skipped", {}).items() if id not in given}
        results.about["skipped"] = before | skipped
        try:
            _run_missing(runners, settings, results, part, console, progress and ranks.main, ranks)
        except KeyboardInterrupt:
            if ranks.main:
                results.save()
                where = (
                    f"are in {out}; the same command goes on from there" if out else "are lost: no folder was given"
                )
                said = f"interrupted: {results.answered} answers {where}"
                console.print(said, highlight=False, markup=False, soft_wrap=True)
            raise
        if part is not None:
            part.close()
        return ranks.gather(results.save())[0]  # the folder is held until all have left it


def unservable(runner: AnyRunner, settings: Sequence[Setting]) -> dict[str, str]:
    """By id of setting, why the model cannot run it. Raises Unservable where that is so of all that prune."""
    found: dict[str, Unservable] = {}
    for setting in settings:
        try:
            runner.check([setting])
        except Unservable as error:
            found[setting.id] = error
    if found and all(setting.pruner is None or setting.id in found for setting in settings):
        raise next(iter(found.values()))
    return {id: str(error) for id, error in found.items()}


def _run_missing(
    runners: Sequence[AnyRunner],
    settings: Sequence[Setting],
    results: Results,
    part: Part | None,
    console: Console,
    progress: bool,
    ranks: Ranks,
) -> None:
    skipped = results.about["skipped"]
    done = ranks.send({s.id: results.done(s) for s in settings})
    able = [setting for setting in settings if setting.id not in skipped]
    left = sum(s.id not in done[of.id] for runner in runners for s in runner.samples for of in able)
    add = results.add if part is None else part.add
    with _bars(console, progress) as bars:
        by_setting = bars.add_task("", total=len(settings) * len(runners))
        answers = bars.add_task("answers", total=left)
        for runner in runners:
            asked = {s.id for s in runner.samples}
            able = [s for s in settings if s.id not in skipped]
            missing = {s: asked - done[s.id] for s in able if asked - done[s.id]}
            if any(len(some) < len(asked) for some in missing.values()):
                runner.leave_out_unreadable(set().union(*missing.values()))
            todo = [s for s in missing if missing[s] - set(runner.unreadable)]
            if todo:
                images = bars.add_task("images", total=len(runner.samples))
                start = time.perf_counter()
                runner.prepare(todo, functools.partial(bars.advance, images))
                results.timed(ENCODING, time.perf_counter() - start, len(runner.samples))
                bars.remove_task(images)
            if ranks.main:
                results.leave_out(runner.unreadable)
            bars.advance(by_setting, len(settings) - len(todo))
            for setting in todo:
                bars.update(by_setting, description=setting.label)
                try:
                    start = time.perf_counter()
                    for rows in runner.run(setting, done[setting.id]):
                        if rows:
                            results.timed(setting.id, time.perf_counter() - start, len(rows))
                            add(rows)
                            bars.advance(answers, len(rows) * ranks.count)
                        start = time.perf_counter()
                except Unservable as error:  # a count below the method's smallest shows with the first image
                    skipped[setting.id] = str(error)
                    if part is not None:
                        part.refuse(setting.id, runner, str(error))
                if part is None:
                    results.save()
                bars.advance(by_setting)
            if todo and part is not None:
                skipped |= part.join(results, runner)
                results.save()
            runner.free()


def _bars(console: Console, shown: bool) -> Progress:
    columns: list[Any] = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate()]
    # Longer than rich's 30 s: a setting at keep 0.1 is several times as fast as one at 0.75.
    return Progress(
        *columns,
        TimeRemainingColumn(),
        console=console,
        disable=not (shown and console.is_terminal),
        transient=True,
        speed_estimate_period=120,
    )


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text("" if not task.speed else f"{task.speed:.3g}/s", style="progress.data.speed")
