"""A study is run: one folder per model below the study's own, resumable, then findings, figure and page.

OUT/NAME/MODEL/  samples.jsonl and summary.json as of `evaluate`; measured.json: steps of `Study.measure`
OUT/NAME/        findings.json, figure.svg, figure.png, page.md
"""

from __future__ import annotations

import json
import lzma
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from groundprune import version
from groundprune.checkpoints.hub import POCKET
from groundprune.checkpoints.load import load
from groundprune.data import DataSet, open_data
from groundprune.data.sources import is_drawn
from groundprune.errors import GroundPruneError
from groundprune.evaluation.asking import asked
from groundprune.evaluation.disk import alone, replace, writing
from groundprune.evaluation.driver import answer_settings, threads_for
from groundprune.evaluation.results import SAMPLES_FILE, SUMMARY_FILE, read_summary
from groundprune.evaluation.rows import read_rows
from groundprune.report.figures import save_figure
from groundprune.studies.page import page
from groundprune.studies.parts.drawing import drawn
from groundprune.studies.study import Bench, Findings, Run, Study

MEASURED, FINDINGS, PAGE, FIGURE = "measured.json", "findings.json", "page.md", "figure.svg"
PACKED = "rows.jsonl.xz"  # the rows as the repository stores them
PROTOCOL = "native"
TWIN = "pocket-seed0"  # the pocket's second training, which a checkout holds


@dataclass(frozen=True)
class Asked:
    """What a study is run on. models: by the name that results give them, where each is.

    data, data_root, limit: see `open_data`; limit None = as many samples as the study says. opener: what loads a
    model of a place; None = `gp.load`.
    """

    models: dict[str, str]
    data: str = "scenes"
    data_root: Path | None = None
    limit: int | None = None
    quick: bool = False
    seed: int = 0
    device: str | None = None
    dtype: str = "auto"
    batch_size: int = 64
    text_tower: str | None = None
    opener: Callable[[str], tuple[Any, Any]] | None = None
    _loaded: dict[str, tuple[Any, Any]] = field(default_factory=dict, compare=False, repr=False)

    def loaded(self, place: str) -> tuple[Any, Any]:
        """Model and processor, loaded once for all studies that are asked the same."""
        if place not in self._loaded:
            opened = self.opener(place) if self.opener else load(place, device=self.device, dtype=self.dtype)
            self._loaded[place] = opened
        return self._loaded[place]


def models_of(model: str) -> dict[str, str]:
    """The model; of the pocket both trainings, where the package lies in a checkout that holds the second."""
    if model != POCKET:
        return {Path(model).name: model}
    twin = _checkout() / "results" / TWIN
    return {POCKET: POCKET} | ({TWIN: str(twin)} if (twin / "config.json").is_file() else {})


def _checkout() -> Path:
    """The root of the checkout that holds the package, if one does."""
    return Path(version.__file__).parents[2]


def run_study(study: Study, wanted: Asked, out: Path, progress: bool = True) -> Findings:
    """Run what is missing, then write what was found.

    Args:
        study: one of `studies()`.
        wanted: what it is run on.
        out: one folder per study is made there.
        progress: whether bars are shown on a terminal.

    Returns:
        Findings, which are also in the study's folder.

    Raises:
        GroundPruneError: as of `evaluate`; or the folder holds a run of another size, data or model.
    """
    folder = out / study.name
    data = _data(study, wanted)
    for name, place in wanted.models.items():
        _run_model(study, wanted, name, place, data, folder / name, progress)
    return conclude(study, folder, list(wanted.models))


def redraw(study: Study, out: Path) -> Findings:
    """Findings, figure and page of a study of trained models, from the runs that a checkout stores.

    Args:
        study: one with `trained`.
        out: as of `run_study`.

    Returns:
        Findings.

    Raises:
        GroundPruneError: there is no checkout around the package, or it stores no run of the study.
    """
    home = _checkout() / "results" / "studies" / study.name
    if not models_in(home):
        raise GroundPruneError(
            f"the study {study.name} is of models that are trained for it, and no run of them is stored here: "
            f"in a checkout, `python -m tools.variants {study.name}` trains them"
        )
    return conclude(study, out / study.name, source=home)


def conclude(study: Study, folder: Path, models: Sequence[str] | None = None, source: Path | None = None) -> Findings:
    """Findings, figure and page, made of the runs in the study's folder, or in another one (`source`).

    models: which of its runs; None = all. Raises GroundPruneError where there is none.
    """
    runs = runs_in(source or folder, models)
    stored = conclusion(study, source or folder, runs)
    folder.mkdir(parents=True, exist_ok=True)
    with writing(folder):
        replace(folder / FINDINGS, json.dumps(stored, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
        figure = drawn(study, runs)
        for file in (folder / FIGURE, (folder / FIGURE).with_suffix(".png")):
            save_figure(figure, file)
        replace(folder / PAGE, page(study, stored, FIGURE))
    return Findings.from_json(stored)


def conclusion(study: Study, folder: Path, runs: Sequence[Run] | None = None) -> dict[str, Any]:
    """What findings.json holds, made anew of the runs in the folder; see `conclude`."""
    runs = runs_in(folder) if runs is None else runs
    about = {run.model: _about(folder / run.model) for run in runs}
    return {"study": study.name, "runs": about, **study.findings(runs).to_json()}


def runs_in(folder: Path, models: Sequence[str] | None = None) -> list[Run]:
    """The runs of a study's folder, of these models or of all. Raises GroundPruneError where there is none."""
    names = models or models_in(folder)
    if not names:
        raise GroundPruneError(f"{folder} holds no run of a study")
    return [read_run(folder / name) for name in names]


def models_in(folder: Path) -> list[str]:
    """The models that a study's folder holds runs of."""
    return sorted(path.parent.name for path in folder.glob(f"*/{SUMMARY_FILE}"))


def read_run(folder: Path) -> Run:
    """The run of one model. Raises GroundPruneError where its folder holds none."""
    summary = read_summary(folder)
    if (folder / SAMPLES_FILE).is_file():
        rows = list(read_rows(folder / SAMPLES_FILE).values())
    elif (folder / PACKED).is_file():
        with lzma.open(folder / PACKED, "rt", encoding="utf-8") as file:
            rows = [json.loads(line) for line in file]
    else:
        rows = []
    return Run(folder.name, rows, _measured(folder), summary.skipped)


def _data(study: Study, wanted: Asked) -> DataSet:
    count = wanted.limit or study.samples[wanted.quick]
    if is_drawn(wanted.data):
        found = open_data(wanted.data, scenes=count, seed=wanted.seed)
    else:
        found = open_data(wanted.data, wanted.data_root, count)
    # Outlines are asked for by expressions.
    kinds = {"rec" if kind == "seg" else kind for kind in study.kinds}
    samples = [sample for sample in found.samples if sample.kind in kinds]
    if not samples:
        raise GroundPruneError(f"the study {study.name} asks {' and '.join(study.kinds)}; {wanted.data} holds none")
    return study.asked(DataSet(found.name, found.split, found.source, samples))


def _run_model(
    study: Study, wanted: Asked, name: str, place: str, data: DataSet, folder: Path, progress: bool
) -> None:
    model, processor = wanted.loaded(place)
    run = {
        "model": name, "study": study.name, "quick": wanted.quick,
        **asked(data, PROTOCOL, wanted.seed, wanted.limit),
    }  # fmt: skip
    # A study without settings leaves a summary too: it says what was run, and refuses another run's folder.
    summary = answer_settings(
        model, processor, data, study.settings(wanted.quick), run, PROTOCOL, folder, wanted.batch_size, progress,
        wanted.text_tower, interventions=study.interventions,
    )  # fmt: skip
    with alone(folder, summary.about), threads_for(model):
        stored = _measured(folder)

        def save(steps: dict[str, Any]) -> None:
            with writing(folder):
                replace(folder / MEASURED, json.dumps(steps, indent=1, allow_nan=False) + "\n")

        study.measure(Bench(model, processor, data, wanted.quick, wanted.seed, stored, save))


def _measured(folder: Path) -> dict[str, Any]:
    path = folder / MEASURED
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise GroundPruneError(f"{path} is no measurement of a study: {error}") from error


def _about(folder: Path) -> dict[str, Any]:
    summary = read_summary(folder)
    about = {key: summary.about[key] for key in ("command", "versions", "date", "device")}
    kept = ("data", "split", "source", "seed", "scenes", "asked", "limit", "quick", "weights", "dtype")
    return {**{key: summary.run[key] for key in kept if key in summary.run}, **about, "skipped": summary.skipped}
