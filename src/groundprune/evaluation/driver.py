"""The main job: one model, the same samples, unpruned and under every pruner, budget and position policy."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import torch
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

from groundprune.checkpoints.hub import POCKET
from groundprune.checkpoints.load import load
from groundprune.data.samples import Sample
from groundprune.data.scenes import scene_samples
from groundprune.errors import GroundPruneError, Unservable
from groundprune.evaluation.identity import about_this_run, pruner_files, samples_fingerprint, weights_fingerprint
from groundprune.evaluation.results import Results
from groundprune.evaluation.runner import Runner
from groundprune.evaluation.specs import KEEPS, PRUNERS, Setting, compare_settings
from groundprune.evaluation.summary import Summary
from groundprune.signals import TextEmbedder

SMALL = 50_000_000  # parameters


def compare(
    model_source: str | Path = POCKET,
    scenes: int = 500,
    seed: int = 0,
    pruners: Sequence[str] = PRUNERS,
    keeps: Sequence[float | str] = KEEPS,
    positions: Sequence[str] | None = None,
    out: str | Path | None = None,
    batch_size: int = 64,
    progress: bool = True,
    text_tower: str | Path | TextEmbedder | None = None,
    console: Console | None = None,
    *,
    tokens: Sequence[int | str] = (),
    split: str = "held-out",
    device: str | None = None,
    dtype: str = "auto",
) -> Summary:
    """Run the grid of `compare_settings` on generated scenes: `scenes` expressions and as many questions.

    pruners: registered names or file.py:Class. device, dtype: see `gp.load`. out: a folder for samples.jsonl and
    summary.json; called again with the same folder, only what is missing is run. Ctrl-C leaves there what was found
    so far, says so in one line, and goes on as KeyboardInterrupt.

    Settings that the model or the method cannot serve (a keep below a method's smallest) are skipped, and the
    summary says why. Raises GroundPruneError, before any model is loaded, for settings that make no sense; before any
    work, where the model can run none of them or `out` holds another run.
    """
    settings = compare_settings(pruners, keeps, positions, tokens)
    stream = scene_samples(scenes, seed, split)
    if batch_size < 1:
        raise GroundPruneError(f"batch size must be a whole number of at least 1 (got {batch_size})")
    model, processor = load(model_source, device=device, dtype=dtype)
    samples = list(stream)
    runner = Runner(model, processor, samples, batch_size, text_tower)
    run = {
        "model": str(model_source), "weights": weights_fingerprint(model), "dtype": str(model.dtype),
        "grounding": asdict(runner.grounding), "pruner_files": pruner_files(pruners),
        "text_tower": None if text_tower is None else str(getattr(text_tower, "source", text_tower)),
        "data": "scenes", "split": split, "scenes": scenes, "seed": seed, "samples": samples_fingerprint(samples),
    }  # fmt: skip
    about = about_this_run(model.device, batch_size, model.config.get_text_config().num_hidden_layers)
    with threads_for(model):
        return answer_all([runner], settings, run, about, out, progress, console)


class AnyRunner(Protocol):
    """What answers: `Runner`, or the runner of another engine. Its methods are those of `Runner`."""

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
) -> Summary:
    """Give every sample of the runners its missing answers, one runner after the other. See `Results`, `compare`."""
    console = console or Console(stderr=True)
    skipped = unservable(runners[0], settings)
    samples = sum(len(runner.samples) for runner in runners)
    with Results(out, run, about, settings, samples) as results:
        given = {setting.id for setting in settings}
        before = {id: why for id, why in results.about.get("skipped", {}).items() if id not in given}
        results.about["skipped"] = before | skipped
        try:
            _run_missing(runners, settings, results, console, progress)
        except KeyboardInterrupt:
            results.save()
            where = f"are in {out}; the same command goes on from there" if out else "are lost: no folder was given"
            console.print(
                f"interrupted: {len(results.rows)} answers {where}", highlight=False, markup=False, soft_wrap=True
            )
            raise
        return results.save()


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


@contextlib.contextmanager
def threads_for(model: Any) -> Iterator[None]:
    """One thread for a small model on a CPU: on its matrices two wait for each other more than they compute."""
    before = torch.get_num_threads()
    small = torch.device(model.device).type == "cpu" and sum(p.numel() for p in model.parameters()) < SMALL
    torch.set_num_threads(1 if small else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _run_missing(
    runners: Sequence[AnyRunner], settings: Sequence[Setting], results: Results, console: Console, progress: bool
) -> None:
    skipped = results.about["skipped"]
    done = {s.id: results.done(s) for s in settings}
    able = [setting for setting in settings if setting.id not in skipped]
    left = sum(s.id not in done[of.id] for runner in runners for s in runner.samples for of in able)
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
                runner.prepare(todo, functools.partial(bars.advance, images))
                bars.remove_task(images)
            results.leave_out(runner.unreadable)
            bars.advance(by_setting, len(settings) - len(todo))
            for setting in todo:
                bars.update(by_setting, description=setting.label)
                try:
                    for rows in runner.run(setting, done[setting.id]):
                        results.add(rows)
                        bars.advance(answers, len(rows))
                except Unservable as error:  # a count below the method's smallest shows with the first image
                    skipped[setting.id] = str(error)
                results.save()
                bars.advance(by_setting)
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
