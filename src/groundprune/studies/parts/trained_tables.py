"""Trained variants in words, tables and figures: means over trainings, with their intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes

from groundprune.evaluation.specs import Setting
from groundprune.report.style import Look, look_of
from groundprune.studies.parts.effects import Effect
from groundprune.studies.parts.trained import Variants, right, share
from groundprune.studies.study import Table


def percent(effect: Effect) -> str:
    """A mean over trainings in percent, with its interval."""
    if not effect.n:
        return "-"
    if math.isinf(effect.low):
        return f"{100 * effect.value:.1f} (1 training)"
    return f"{100 * effect.value:.1f} [{100 * effect.low:.1f}, {100 * effect.high:.1f}]"


def told_points(effect: Effect, unit: str = "") -> str:
    """A difference in points: "+12.3 [+10.1, +14.5] (3 trainings)"."""
    if not effect.n:
        return "not measured"
    if math.isinf(effect.low):
        return f"{100 * effect.value:+.1f}{unit} (1 training)"
    return f"{effect}{unit} ({effect.n} trainings)"


def arms_table(
    found: Variants, names: Sequence[str], kinds: Sequence[str], arms: Mapping[str, Setting], first: str
) -> Table:
    """A row per variant and kind of question, a column per arm. first: heading of the first column."""
    rows = [
        [f"{name}, {kind.upper()}", *(percent(found.mean(name, right(setting, kind))) for setting in arms.values())]
        for name in names
        for kind in kinds
    ]
    return Table("Right answers in percent, mean over trainings", [first, *arms], rows)


# Of arms that are no policies.
_LOOKS = (Look("#e69f00", "D", "-"), Look("#7f7f7f", "X", "-"), Look("#0072b2", "P", "-"), Look("#222222", "*", "-"))


def draw_variants(ax: Axes, variants: Variants, names: Sequence[str], kind: str, arms: Mapping[str, Setting]) -> None:
    """A row per variant: a mark per training and arm. arms: by what they are called, policies by their names."""
    other, step = iter(_LOOKS), min(0.16, 0.8 / len(arms))
    for i, (label, setting) in enumerate(arms.items()):
        look, aside = look_of(label), step * (i - (len(arms) - 1) / 2)
        if look is look_of(""):
            look = next(other)
        for row, name in enumerate(names):
            found = [s for run in variants.runs(name) if (s := share(run, setting, kind)) is not None]
            ax.plot(
                [100 * s for s in found], [row + aside] * len(found), color=look.colour, marker=look.marker,
                linestyle="none", markersize=5, alpha=0.8, label=label if row == 0 else None,
            )  # fmt: skip
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.set_xlim(-4, 104)
    ax.set_xlabel("right answers (%)")
    ax.set_title(kind.upper())
    ax.grid(axis="x")
