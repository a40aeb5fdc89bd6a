"""What probes read over a model's depth: numbers, the table and the curves of one run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from groundprune.report.style import look_of
from groundprune.studies.parts.effects import Effect
from groundprune.studies.parts.probing import LINEAR, MLP, POSITION, SHUFFLED, TARGETS, mean_of_images
from groundprune.studies.parts.states import LLM, PROJECTOR, TOWER, Place
from groundprune.studies.study import Run, Table

ABOUT = "about"
_LOOKS = {LINEAR: "preserved", MLP: "official", SHUFFLED[MLP]: "reassigned"}


def accuracy(run: Run, place: Place, kind: str, target: str) -> Effect:
    """The share of test tokens that a probe reads right (n: test images), with its interval over images."""
    each = _shares(run, place, kind, target)
    return Effect(run.model, len(each), *mean_of_images(each))


def _shares(run: Run, place: Place, kind: str, target: str) -> list[float]:
    """Per test image."""
    step = run.measured.get(str(place))
    if step is None:
        return []
    count = step["grid"][0] * step["grid"][1]
    return [right[TARGETS.index(target)] / count for right in step["right"][kind]]


def chance(run: Run, target: str) -> float:
    """Of a guess; 0 where nothing was measured."""
    grids = [step["grid"] for name, step in run.measured.items() if name != ABOUT]
    if not grids:
        return 0.0
    rows, cols = grids[0]
    return 1 / {"row": rows, "column": cols, POSITION: rows * cols}[target]


def between(run: Run, a: Sequence[Place], b: Sequence[Place]) -> Effect:
    """How much better the linear probe reads positions at the places a, on average, than at b; paired over images."""
    left, right = ([_shares(run, place, LINEAR, POSITION) for place in places] for places in (a, b))
    if not left or not right or not all([*left, *right]):
        return Effect(run.model, 0, 0.0, -1.0, 1.0)
    each = (np.mean(left, axis=0) - np.mean(right, axis=0)).tolist()
    return Effect(run.model, len(each), *mean_of_images(each))


def control(run: Run) -> Effect:
    """How far above chance probes of shuffled labels are, all places and both kinds together."""
    each = [
        s
        for place in measured_places(run)
        for kind in SHUFFLED.values()
        if (s := _shares(run, place, kind, POSITION))
    ]
    over = (np.mean(each, axis=0) - chance(run, POSITION)).tolist() if each else []
    return Effect(run.model, len(over), *mean_of_images(over))


def measured_places(run: Run, part: str | None = None) -> list[Place]:
    """In the order of depth. part: of the tower or the LLM alone; None = all."""
    order = (TOWER, PROJECTOR, LLM)
    found = [Place.of(name) for name in run.measured if name != ABOUT]
    mine = [place for place in found if part in (None, place.part)]
    return sorted(mine, key=lambda place: (order.index(place.part), place.layer))


def best_of(run: Run, part: str) -> Place:
    """The layer of a part in which the linear probe reads positions best."""
    mine = measured_places(run, part)
    return max(mine, key=lambda place: accuracy(run, place, LINEAR, POSITION).value, default=Place(part, 0))


def depth_table(run: Run) -> Table:
    """Every place, target and probe, with chance."""
    about = run.measured[ABOUT]
    header = ["place", *(f"{target}, {kind}" for target in TARGETS for kind in (LINEAR, MLP, SHUFFLED[MLP]))]
    rows = []
    for place in measured_places(run):
        cells = [accuracy(run, place, kind, t) for t in TARGETS for kind in (LINEAR, MLP, SHUFFLED[MLP])]
        marked = f"{place}, feeds the LLM" if str(place) == about["feeds"] else str(place)
        rows.append([marked, *(f"{100 * e.value:.1f} [{100 * e.low:.1f}, {100 * e.high:.1f}]" for e in cells)])
    rows.append(["chance", *(f"{100 * chance(run, t):.1f}" for t in TARGETS for _ in range(3))])
    return Table(f"{run.model}: test tokens read right, in percent, n = {about['test']} images", header, rows)


def draw_depth(ax: Axes, run: Run, target: str, index: int) -> None:
    """One run's curves of a target; index: 0 for the first run."""
    at = measured_places(run)
    if not at:
        return
    for kind, name in _LOOKS.items():
        look, found = look_of(name), [accuracy(run, place, kind, target) for place in at]
        for part in (TOWER, PROJECTOR, LLM):  # no line between them: they are different spaces
            where = [i for i, place in enumerate(at) if place.part == part]
            values = [100 * found[i].value for i in where]
            below = [100 * (found[i].value - found[i].low) for i in where]
            above = [100 * (found[i].high - found[i].value) for i in where]
            ax.errorbar(
                where, values, yerr=[below, above], color=look.colour, marker=look.marker, linestyle=look.line,
                label=kind if index == 0 else None, elinewidth=0.8, capsize=2, alpha=0.55 if index else 1.0,
                markerfacecolor="white" if index else look.colour,
            )  # fmt: skip
    ax.axhline(100 * chance(run, target), color="#222222", linestyle=":", linewidth=1, label="chance")
    every = max(1, len(at) // 12)
    shown = [i for i, place in enumerate(at) if place.layer % every == 0 or place.part == PROJECTOR]
    ax.set_xticks(shown, ["P" if at[i].part == PROJECTOR else str(at[i].layer) for i in shown])
    ax.set_xlabel("tower layer  |  P: projector  |  LLM layer")
    middle = [i for i, place in enumerate(at) if place.part == PROJECTOR]
    for i in middle:
        ax.axvspan(i - 0.5, i + 0.5, color="#d6d6d6", alpha=0.5, linewidth=0)
