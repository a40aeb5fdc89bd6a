"""The main job on data: one model, a benchmark, every pruner, budget and position policy, in a named protocol."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

from rich.console import Console

from groundprune.checkpoints.hub import POCKET
from groundprune.checkpoints.load import load
from groundprune.data import DataSet, Sample, open_data
from groundprune.errors import GroundPruneError
from groundprune.evaluation.driver import answer_all, threads_for
from groundprune.evaluation.identity import about_this_run, pruner_files, samples_fingerprint, weights_fingerprint
from groundprune.evaluation.runner import Runner
from groundprune.evaluation.specs import KEEPS, PRUNERS, compare_settings
from groundprune.evaluation.summary import Summary
from groundprune.signals import TextEmbedder

# Images encoded at a time: at 576 tokens of a 7B model 1.2 GB, at LLaVA-NeXT's 2880 6 GB. All settings answer their
# questions before the next ones are encoded. A fixed number, so that a resumed run makes the same batches.
WINDOW = 256


def evaluate(
    model_source: str | Path = POCKET,
    data: str = "scenes",
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
) -> Summary:
    """Run the grid of `compare_settings` on a data set, resumable as `compare` is.

    data, data_root, limit: see `open_data`. device, dtype: see `gp.load`. protocol: see
    `groundprune.evaluation.protocols`. seed: which scenes, where data is "scenes". window: images that are encoded at
    a time; the tower runs once per image whatever it is. A sample whose image cannot be read, or whose box cannot be
    in it, is left out, counted and named in the summary.

    Raises GroundPruneError, before any model is loaded, for data or settings that make no sense; before any work,
    where the model cannot run one of them or `out` holds another run.
    """
    if batch_size < 1 or window < 1:
        raise GroundPruneError(f"batch size and window must be at least 1 (got {batch_size} and {window})")
    settings = compare_settings(pruners, keeps, positions, tokens)
    found = open_data(data, data_root, limit, seed=seed)
    model, processor = load(model_source, device=device, dtype=dtype)
    parts = windows(found, window)
    runners = [Runner(model, processor, part, batch_size, text_tower, protocol) for part in parts]
    refuse_repeated(found)
    run = {
        "model": str(model_source), "weights": weights_fingerprint(model), "dtype": str(model.dtype),
        "grounding": asdict(runners[0].grounding), "pruner_files": pruner_files(pruners),
        "text_tower": None if text_tower is None else str(getattr(text_tower, "source", text_tower)),
        **asked(found, protocol, seed, limit),
    }  # fmt: skip
    about = about_this_run(model.device, batch_size, model.config.get_text_config().num_hidden_layers)
    with threads_for(model):
        return answer_all(runners, settings, run, about, out, progress, console)


def refuse_repeated(data: DataSet) -> None:
    """Raises GroundPruneError where two samples share an id."""
    if len({s.id for s in data.samples}) != len(data.samples):
        raise GroundPruneError(f"{data.name}: two samples share an id")


def asked(data: DataSet, protocol: str, seed: int, limit: int | None) -> dict[str, Any]:
    """What of a run says which questions were asked, and how they were read."""
    about = {
        "protocol": protocol, "data": data.name, "split": data.split, "source": data.source,
        "seed": seed, "limit": limit, "samples": samples_fingerprint(data.samples),
    }  # fmt: skip
    return about | {"scenes": len(data.samples) // 2} if data.name == "scenes" else about


def windows(data: DataSet, images: int) -> list[list[Sample]]:
    """The samples in parts of at most so many images, those about one image together.

    Scenes, which are drawn in memory, are one part.
    """
    groups: dict[str, list[Sample]] = {}
    for sample in data.samples:
        groups.setdefault(sample.image_key, []).append(sample)
    if data.name == "scenes":
        return [data.samples]
    several = list(groups.values())
    return [list(chain(*several[i : i + images])) for i in range(0, len(several), images)]
