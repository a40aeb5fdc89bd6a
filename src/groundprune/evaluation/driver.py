"""The main job: one model, one data set, unpruned and under every pruner, budget and position policy."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from groundprune.checkpoints.hub import POCKET
from groundprune.checkpoints.load import load
from groundprune.data import DataSet, open_data
from groundprune.data.sources import as_task, scenes_of
from groundprune.errors import GroundPruneError
from groundprune.evaluation.asking import asked, how_asked, refuse_repeated, windows
from groundprune.evaluation.devices import check_placing, input_device
from groundprune.evaluation.identity import about_this_run, pruner_files, weights_fingerprint
from groundprune.evaluation.interventions import Intervention
from groundprune.evaluation.loop import answer_all
from groundprune.evaluation.meter import Meter
from groundprune.evaluation.processes import ALONE, Ranks
from groundprune.evaluation.protocols import check_protocol
from groundprune.evaluation.runner import Runner
from groundprune.evaluation.specs import KEEPS, PRUNERS, Setting, compare_settings
from groundprune.evaluation.summary import Summary
from groundprune.signals import TextEmbedder

# Images encoded at a time: at 576 tokens of a 7B model 1.2 GB, at LLaVA-NeXT's 2880 6 GB. All settings answer their
# questions before the next ones are encoded. A fixed number, so that a resumed run makes the same batches.
WINDOW = 256
SMALL = 50_000_000  # parameters


def evaluate(
    model_source: str | Path = POCKET,
    data: str | DataSet | None = None,
    pruners: Sequence[str] = PRUNERS,
    keeps: Sequence[float | str] = KEEPS,
    positions: Sequence[str] | None = None,
    protocol: str = "native",
    out: str | Path | None = None,
    limit: int | None = None,
    data_root: str | Path | None = None,
    batch_size: int = 64,
    progress: bool = True,
    text_tower: str | Path | TextEmbedder | None = None,
    console: Console | None = None,
    *,
    tokens: Sequence[int | str] = (),
    device: str | None = None,
    dtype: str = "auto",
    seed: int = 0,
    window: int = WINDOW,
    task: str = "rec",
    device_map: str | Mapping[str, Any] | None = None,
    ranks: Ranks = ALONE,
) -> Summary:
    """Run the grid of `compare_settings` on a data set, resumable.

    Settings that the model or the method cannot serve (a keep below a method's smallest) are skipped, and a sample
    whose image cannot be read, or whose box cannot be in it, is left out; the summary says which, and why. Ctrl-C
    leaves in `out` what was found so far, says so in one line, and goes on as KeyboardInterrupt.

    Args:
        model_source: the embedded model, a Hub id or a folder.
        data: what it is asked, see `groundprune.data.open_data`; or a data set that is open; None = scenes of
            the kind that the model was trained on, see `groundprune.data.sources.scenes_of`.
        pruners: in text, with options or without: `random`, `hired:alpha=0.3`, `file.py:Class`.
        keeps: budgets as shares of the visual tokens.
        positions: position policies; by default those of `compare_settings`.
        protocol: how boxes are asked for and read, see `groundprune.evaluation.protocols`.
        out: a folder for samples.jsonl and summary.json; called again with it, only what is missing is run.
        limit: see `open_data`.
        data_root: see `open_data`.
        batch_size: prompts that run together; halved where memory runs out.
        progress: whether bars are shown on a terminal.
        text_tower: see `gp.prune_inputs`.
        console: where progress is shown.
        tokens: budgets as counts, beside `keeps`.
        device: see `gp.load`.
        dtype: see `gp.load`.
        seed: which scenes, where data is "scenes".
        window: images that are encoded at a time; the tower runs once per image whatever it is.
        task: how expressions are answered, see `groundprune.data.sources.as_task`.
        device_map: how accelerate spreads a model over several devices, "auto" say; in place of `device`.
        ranks: of several processes that all call this with the same arguments, see `Ranks.launched`: each answers
            its share, and all return the same.

    Returns:
        Accuracies with intervals, per setting and type of question, and differences between policies.

    Raises:
        GroundPruneError: before any model is loaded, for data or settings that make no sense; before any work, where
            the model can run none of them or `out` holds another run. Told: the same, of a process that is not the
            first, or where another process has ended.
    """
    with ranks.agreed():
        data = scenes_of(model_source) if data is None else data
        settings, found = check(
            data, pruners, keeps, positions, limit, data_root, batch_size, tokens=tokens, device=device,
            seed=seed, window=window, task=task, protocol=protocol, device_map=device_map, processes=ranks.count,
        )  # fmt: skip
        place: dict[str, Any] = (
            {"device": ranks.device or device} if device_map is None else {"device_map": device_map}
        )
        model, processor = load(model_source, dtype=dtype, **place)
        run = {
            "model": str(model_source), "pruner_files": pruner_files(pruners),
            **asked(found, protocol, seed, limit),
        }  # fmt: skip
    return answer_settings(
        model, processor, found, settings, run, protocol, out, batch_size, progress, text_tower, console, window,
        ranks=ranks,
    )  # fmt: skip


def check(
    data: str | DataSet = "scenes",
    pruners: Sequence[str] = PRUNERS,
    keeps: Sequence[float | str] = KEEPS,
    positions: Sequence[str] | None = None,
    limit: int | None = None,
    data_root: str | Path | None = None,
    batch_size: int = 64,
    *,
    tokens: Sequence[int | str] = (),
    device: str | None = None,
    seed: int = 0,
    window: int = WINDOW,
    task: str = "rec",
    protocol: str = "native",
    device_map: str | Mapping[str, Any] | None = None,
    processes: int = 1,
) -> tuple[list[Setting], DataSet]:
    """What `evaluate` with these arguments answers, of which data. Raises GroundPruneError as it does before a model
    is loaded."""
    for name, value in (("batch size", batch_size), ("window", window)):
        if value < 1:
            raise GroundPruneError(f"{name} must be at least 1 (got {value})")
    settings = compare_settings(pruners, keeps, positions, tokens)
    check_placing(device, device_map, processes)
    found = data if isinstance(data, DataSet) else open_data(data, data_root, limit, seed=seed)
    found = as_task(found, task)
    check_protocol(protocol, {sample.kind for sample in found.samples})
    return settings, found


def answer_settings(
    model: Any,
    processor: Any,
    data: DataSet,
    settings: Sequence[Setting],
    run: Mapping[str, Any],
    protocol: str = "native",
    out: str | Path | None = None,
    batch_size: int = 64,
    progress: bool = True,
    text_tower: str | Path | TextEmbedder | None = None,
    console: Console | None = None,
    window: int = WINDOW,
    interventions: Mapping[str, Intervention] | None = None,
    ranks: Ranks = ALONE,
) -> Summary:
    """`evaluate` of a model that is loaded, under settings of any kind. run: what else must be equal to resume."""
    with ranks.agreed():
        parts = windows(data, window)
        meter = Meter(model, processor)
        runners = [
            Runner(model, processor, x, batch_size, text_tower, protocol, interventions, meter, ranks) for x in parts
        ]
        refuse_repeated(data)
    run = {
        "weights": weights_fingerprint(model), "dtype": str(model.dtype),
        "grounding": how_asked(runners[0].grounding, data),
        "text_tower": None if text_tower is None else str(getattr(text_tower, "source", text_tower)),
        **run,
    }  # fmt: skip
    about = about_this_run(input_device(model), batch_size, model.config.get_text_config().num_hidden_layers)
    if ranks.count > 1:
        about["processes"] = ranks.count
    with threads_for(model):
        return answer_all(runners, settings, run, about, out, progress, console, ranks)


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
    """`evaluate` on generated scenes.

    Args:
        model_source: the embedded model, a Hub id or a folder.
        scenes: how many expressions, and as many questions, each about a scene of its own.
        seed: another seed, other scenes.
        pruners: see `evaluate`.
        keeps: see `evaluate`.
        positions: see `evaluate`.
        out: see `evaluate`.
        batch_size: see `evaluate`.
        progress: see `evaluate`.
        text_tower: see `evaluate`.
        console: see `evaluate`.
        tokens: see `evaluate`.
        split: which scenes: "held-out", "novel-pair" or "novel-template"; of smol "held-out", "novel-picture" or
            "novel-name".
        device: see `gp.load`.
        dtype: see `gp.load`.

    Returns:
        As of `evaluate`.

    Raises:
        GroundPruneError: as of `evaluate`.
    """
    compare_settings(pruners, keeps, positions, tokens)  # mistakes are named before scenes are drawn
    data = open_data(f"{scenes_of(model_source)}:{split}", scenes=scenes, seed=seed)
    return evaluate(
        model_source, data, pruners, keeps, positions, out=out,
        batch_size=batch_size, progress=progress, text_tower=text_tower, console=console, tokens=tokens,
        device=device, dtype=dtype, seed=seed,
    )  # fmt: skip


@contextlib.contextmanager
def threads_for(model: Any) -> Iterator[None]:
    """One thread for a small model on a CPU: on its matrices two wait for each other more than they compute."""
    before = torch.get_num_threads()
    small = input_device(model).type == "cpu" and sum(p.numel() for p in model.parameters()) < SMALL
    torch.set_num_threads(1 if small else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
