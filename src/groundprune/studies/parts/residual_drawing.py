"""What study 6 draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes

from groundprune.studies.parts.effects import difference
from groundprune.studies.parts.residual_rows import PRUNERS, UNPRUNED, changed, plain
from groundprune.studies.study import Run

LOOKS = {"cls-visual": ("#0072B2", "o", "-"), "text-visual": ("#E69F00", "D", "-."), "random": ("#8A8A8A", "X", "--")}


def draw_given_back(ax: Axes, runs: Sequence[Run], keep: str, interventions: Mapping[str, str]) -> None:
    """Points that each intervention gives back, beside the whole loss; by name with what a reader calls it."""
    names, width = (
        ["all that\nis lost", *(name.replace(" ", "\n") for name in interventions.values())],
        0.8 / len(PRUNERS),
    )
    for at, name in enumerate((None, *interventions)):
        for p, pruner in enumerate(PRUNERS):
            for i, run in enumerate(runs):
                a, b = (UNPRUNED, plain(pruner, keep)) if name is None else (
                    changed(pruner, keep, name), plain(pruner, keep)
                )  # fmt: skip
                found = difference(run, a, b, "rec")
                if found.n:
                    x = at + (p - (len(PRUNERS) - 1) / 2) * width + 0.08 * (i - (len(runs) - 1) / 2)
                    around = [[100 * (found.value - found.low)], [100 * (found.high - found.value)]]
                    look = look_of_pruner(pruner, i, joined=False)
                    ax.errorbar(x, 100 * found.value, around, elinewidth=0.8, capsize=1.5, **look)
    ax.axhline(0, color="#8A8A8A", linewidth=0.8)
    ax.set_xticks(range(len(names)), names)
    ax.set_ylabel("REC points given back")
    ax.set_title(f"keep {keep}")
    ax.grid(axis="y")


def look_of_pruner(pruner: str, run: int, joined: bool = True) -> dict[str, Any]:
    """Arguments of matplotlib; the second run is lighter. joined: whether a line joins the points."""
    colour, marker, line = LOOKS[pruner]
    return {
        "color": colour, "marker": marker, "linestyle": line if joined else "none", "alpha": 0.55 if run else 1.0,
        "markerfacecolor": "white" if run else colour,
    }  # fmt: skip
