"""How far predicted boxes went when ids were moved: displacements of their centres, in cells of the model's grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from groundprune.boxes.frames import FRAMES
from groundprune.evaluation.interventions import Truths
from groundprune.evaluation.specs import Setting
from groundprune.pruners.spatial import Spatial
from groundprune.pruning.inputs import prune_inputs
from groundprune.studies.parts.asking import batches
from groundprune.studies.parts.effects import Effect
from groundprune.studies.study import Bench, Run

CELLS = "cells"  # the step of `measure_cells`
RESAMPLES = 2000


def measure_cells(bench: Bench) -> None:
    """The step CELLS: by id of a sample with a box, its grid (rows, columns), the width and height of a cell and the
    box, both in pixels of the image. Images that are several grids to the model are left out."""

    @torch.inference_mode()
    def work() -> dict[str, Any]:
        found: dict[str, Any] = {}
        for samples, inputs, truths in batches(bench, bench.data.samples):
            layouts = prune_inputs(bench.model, inputs, Spatial(keep=1)).layout
            for i, (sample, layout) in enumerate(zip(samples, layouts, strict=True)):
                if sample.box is not None and len(layout.groups()) == 1:
                    grid = layout.grid(layout.patches)
                    found[sample.id] = {"grid": list(grid), "cell": _cell(truths, i, grid), "box": list(sample.box)}
        return found

    bench.step(CELLS, work)


def _cell(truths: Truths, row: int, grid: tuple[int, int]) -> list[float]:
    window = FRAMES[truths.frame](*truths.sizes[row]).window
    return [window.width / grid[1], window.height / grid[0]]


def displacements(
    run: Run, base: Setting, setting: Setting, axis: str, room: int = 0, across: bool = False
) -> dict[str, float]:
    """By sample, how many cells the centre of the predicted box moved along an axis, from one setting to another.

    Only of samples that `base` answers right and whose boxes can be read in both.

    Args:
        run: with the step of `measure_cells`; without it nothing is found.
        base: from where.
        setting: to where.
        axis: "row" (down) or "column" (right).
        room: cells by which the true box can be moved along the axis and still lies in the image, of either sign.
        across: the movement across the axis instead.
    """
    cells: Mapping[str, Any] = run.measured.get(CELLS, {})
    before = {r["sample"]: r["box"] for r in run.answers(base, "rec") if r["correct"] and r["box"]}
    found: dict[str, float] = {}
    for row in run.answers(setting, "rec"):
        about, old, new = cells.get(row["sample"]), before.get(row["sample"]), row["box"]
        if about is None or old is None or new is None or not _has_room(about, axis, room):
            continue
        i = _index(axis) ^ across
        found[row["sample"]] = (new[i] + new[i + 2] - old[i] - old[i + 2]) / 2 / about["cell"][i]
    return found


def mean(model: str, values: Sequence[float], seed: int = 0) -> Effect:
    """The mean with its 95% percentile bootstrap interval; in the unit of the values."""
    return ratio(model, values, [1.0] * len(values), seed)


def slope(run: Run, base: Setting, settings: Mapping[int, Setting], axis: str) -> Effect:
    """Cells that boxes go per cell that ids go: a line through the origin, by least squares over all samples and
    shifts; the bootstrap is over samples. settings: by shift in cells."""
    above, below = dict[str, float](), dict[str, float]()
    for by, setting in settings.items():
        for sample, value in displacements(run, base, setting, axis, room=by).items():
            above[sample] = above.get(sample, 0) + by * value
            below[sample] = below.get(sample, 0) + by * by
    return ratio(run.model, list(above.values()), list(below.values()))


def ratio(model: str, above: Sequence[float], below: Sequence[float], seed: int = 0) -> Effect:
    """sum(above) / sum(below) over samples, with its 95% percentile bootstrap interval."""
    n = len(above)
    if not n:
        return Effect(model, 0, 0.0, -np.inf, np.inf)
    x, y = np.asarray(above, float), np.asarray(below, float)
    drawn = np.random.default_rng(seed).integers(n, size=(RESAMPLES, n))
    low, high = np.quantile(x[drawn].sum(1) / y[drawn].sum(1), [0.025, 0.975])
    return Effect(model, n, float(x.sum() / y.sum()), float(low), float(high))


def half_lost(run: Run, base: Setting, settings: Mapping[int, Setting], seed: int = 0) -> Effect:
    """At how many wrong ids half of the accuracy of `base` is lost, with its 95% bootstrap interval over samples.

    Read off the curve between the counts that were run, on a logarithmic axis; infinite where it never is.

    Args:
        run: any.
        base: without a wrong id.
        settings: by count.
        seed: of the bootstrap.
    """
    right = {k: {r["sample"]: r["correct"] for r in run.answers(s, "rec")} for k, s in settings.items()}
    first = {r["sample"]: r["correct"] for r in run.answers(base, "rec")}
    counts = sorted(k for k, rows in right.items() if rows)
    both = [sample for sample in first if all(sample in right[k] for k in counts)]
    if not both or not counts or not any(first[sample] for sample in both):
        return Effect(run.model, 0, 0.0, -np.inf, np.inf)
    table = np.array([[first[s], *(right[k][s] for k in counts)] for s in both], float)
    drawn = np.random.default_rng(seed).multinomial(len(both), [1 / len(both)] * len(both), RESAMPLES) @ table
    found = _crossings(counts, np.vstack([table.sum(0), drawn]))
    # The ends are crossings that were met, so that no infinity is interpolated.
    low, high = np.quantile(found[1:], [0.025, 0.975], method="inverted_cdf")
    return Effect(run.model, len(both), float(found[0]), float(low), float(high))


def _crossings(counts: Sequence[int], curves: np.ndarray) -> np.ndarray:
    """Float[R], where each of R curves first falls to half of its beginning.

    curves: Float[R, 1 + counts], right answers without a wrong id, then at each count.
    """
    goal, every = curves[:, 0] / 2, np.arange(len(curves))
    fallen = curves[:, 1:] <= goal[:, None]
    after = fallen.argmax(1) + 1
    above, below = curves[every, after - 1], curves[every, after]
    part = (above - goal) / np.maximum(above - below, 1e-12)
    steps = np.log2([1, *counts])  # none wrong stands where one is: there is no logarithm of none
    found = 2 ** (steps[after - 1] + part * (steps[after] - steps[after - 1]))
    return np.where(fallen.any(1), found, np.inf)


def told_cells(effects: Sequence[Effect], unit: str = "cells") -> str:
    """ "+0.98 [+0.95, +1.01] cells (pocket, n = 300), ..."."""
    return ", ".join(
        f"{e.value:+.2f} [{e.low:+.2f}, {e.high:+.2f}] {unit} ({e.model}, n = {e.n})"
        if e.n else f"not measured ({e.model})"
        for e in effects
    )  # fmt: skip


def _index(axis: str) -> int:
    return 0 if axis == "column" else 1


def _has_room(about: Mapping[str, Any], axis: str, room: int) -> bool:
    i = _index(axis)
    cell, lines = about["cell"][i], about["grid"][1 - i]
    return about["box"][i] / cell + room >= 0 and about["box"][i + 2] / cell + room <= lines
