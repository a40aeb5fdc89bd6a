"""Table 1 of GAP (arXiv 2506.21873): what the position policy is worth, by model, pruner and benchmark."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from groundprune.errors import unknown
from groundprune.evaluation.specs import MAIN_POSITIONS, Setting, compare_settings
from groundprune.evaluation.summary import Summary
from groundprune.studies.parts.published import PUBLISHED, REC_SPLITS
from groundprune.studies.parts.requirements import (
    MODELS,
    Checkpoint,
    Model,
    config_there,
    differs,
    missing,
    samples_there,
)

PRUNERS = ("cls-visual", "text-visual", "random", "spatial", "prumerge", "trim")
DATA = (*REC_SPLITS, "gqa:testdev")
KEEP = "0.5"
# Of an estimate of time: sustained by one large GPU in half precision, prompts 64 at a time.
FLOPS, BANDWIDTH, BATCH = 200e12, 2e12, 64
BASIS = (
    "hours are an estimate, nothing was measured: 2 x parameters x tokens of a prompt at 200 TFLOP/s, and one "
    "reading of 16-bit weights per 64 answers and new token (30 of a box, 4 of an answer) at 2 TB/s; 60 tokens of "
    "text; the vision tower, which runs once per image, and the loading of models are left out"
)


@dataclass(frozen=True)
class Cell:
    """One number. lacks: all for which it cannot be had here. hours: of one GPU, None where the count is unknown.

    warning: how the checkpoint differs from what its name says. ours, published: percent; None where there is none.
    samples: answers that `ours` is over.
    """

    model: str
    data: str
    setting: str
    lacks: tuple[str, ...]
    hours: float | None
    published: float | None
    ours: float | None = None
    samples: int = 0
    warning: str | None = None

    @property
    def missing(self) -> str | None:
        return "; ".join(self.lacks) or None

    @property
    def difference(self) -> float | None:
        return None if self.ours is None or self.published is None else round(self.ours - self.published, 2)


def plan(
    checkpoints: dict[str, Checkpoint], root: str | Path, models: Iterable[str] = MODELS, data: Iterable[str] = DATA
) -> list[Cell]:
    """Every cell, with what it lacks; runs and loads nothing.

    Raises GroundPruneError for unknown models or data.
    """
    cells, models, data = [], list(models), list(data)
    for kind, given, known in (("model", models, MODELS), ("data", data, DATA)):
        for name in given:
            if name not in known:
                raise unknown(f"{kind} of table 1", name, known)
    counts = {spec: samples_there(spec, Path(root)) for spec in data}
    for name in models:
        place = checkpoints.get(name)
        config, lack = config_there(name, place)
        warning = None if config is None else differs(name, config)
        without = {setting: missing(name, place, setting) for setting in settings()}
        for spec, (count, lacking) in counts.items():
            for setting, (never, more) in without.items():
                lacks = (never,) if never else (*lack, *more, *lacking)
                hours = None if count is None else _hours(MODELS[name], setting, count, spec.startswith("gqa"))
                published = PUBLISHED.get((name, spec, setting.id))
                cells.append(Cell(name, spec, setting.id, lacks, hours, published, warning=warning))
    return cells


def settings() -> list[Setting]:
    """Unpruned, and every pruner under both policies."""
    return compare_settings(PRUNERS, [KEEP], MAIN_POSITIONS)


def table1(
    checkpoints: dict[str, Checkpoint],
    root: str | Path,
    out: str | Path,
    models: Iterable[str] = MODELS,
    data: Iterable[str] = DATA,
    **options: Any,
) -> list[Cell]:
    """Run what can be run, resumable: one folder below `out` per model and benchmark. options: as of `evaluate`."""
    from groundprune.evaluation import evaluate

    cells = plan(checkpoints, root, models, data)
    found: list[Cell] = []
    for name, spec in dict.fromkeys((cell.model, cell.data) for cell in cells):
        mine = [cell for cell in cells if (cell.model, cell.data) == (name, spec)]
        possible = {cell.setting for cell in mine if cell.missing is None}
        if not possible:
            found += mine
            continue
        place = checkpoints[name]
        summary = evaluate(
            place.path, spec, [p for p in PRUNERS if any(s.startswith(f"{p}/") for s in possible)], [KEEP],
            MAIN_POSITIONS, MODELS[name].protocol, Path(out) / name / spec.replace(":", "-"), data_root=root,
            text_tower=place.text_tower, **options,
        )  # fmt: skip
        found += [_filled(cell, summary) for cell in mine]
    return found


def _filled(cell: Cell, summary: Summary) -> Cell:
    result = summary.result(cell.setting)
    if result is None:
        return cell
    total = (result.vqa if cell.data.startswith("gqa") else result.rec).total
    ours = round(100 * total.accuracy, 2)
    return replace(cell, lacks=(), ours=ours, samples=total.n)


def _hours(model: Model, setting: Setting, count: int, words: bool) -> float:
    tokens = 60 + model.tokens * (1.0 if setting.keep is None else float(setting.keep))
    prefill = count * 2 * model.parameters * tokens / FLOPS
    decode = count / BATCH * (4 if words else 30) * 2 * model.parameters / BANDWIDTH
    return (prefill + decode) / 3600
