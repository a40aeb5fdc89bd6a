"""The three panels of the study `mechanism`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes

from groundprune.evaluation.summary import Share
from groundprune.report.style import look_of
from groundprune.studies.parts.drawing import FADED, line, percent_axis
from groundprune.studies.parts.effects import Effect

LOOKS = {"row": look_of("preserved"), "column": look_of("official")}
LABELS = {"row": "by rows (down)", "column": "by columns (right)"}


def draw_map(ax: Axes, runs: Sequence[Mapping[str, Sequence[Effect]]], steps: Sequence[int]) -> None:
    """Movement of the box over that of the target's ids. runs: by axis, an effect per step."""
    low, high = min(steps), max(steps)
    ax.plot([low, high], [low, high], color="#8A8A8A", linewidth=0.8, linestyle="--", label="box = ids")
    for i, run in enumerate(runs):
        for axis, effects in run.items():
            points = sorted((by, e) for by, e in zip(steps, effects, strict=True) if e.n)
            _points(ax, [by for by, _ in points], [e for _, e in points], axis, i)
    ax.set_xticks(sorted(steps))
    ax.set_xlabel("target's ids moved by (cells)")
    ax.set_ylabel("box moved by (cells)")
    ax.grid(axis="y")


def draw_parts(ax: Axes, runs: Sequence[Mapping[str, Mapping[str, Effect]]]) -> None:
    """Movement of the box when the ids of one part move by one cell. runs: by part and axis."""
    parts = list(runs[0]) if runs else []
    for i, run in enumerate(runs):
        for j, axis in enumerate(LOOKS):
            found = [(p, run[part][axis]) for p, part in enumerate(parts) if run[part][axis].n]
            height = 0.3 * j + 0.15 * i - 0.22
            _points(ax, [p + height for p, _ in found], [e for _, e in found], axis, i, flat=True)
    ax.axvline(0, color="#8A8A8A", linewidth=0.8)
    ax.set_yticks(range(len(parts)), parts)
    ax.set_ylim(len(parts) - 0.5, -0.5)
    ax.set_xlabel("box moved by (cells), ids by +1")
    ax.grid(axis="x")


def draw_wrong(ax: Axes, runs: Sequence[Mapping[str, Sequence[Share]]], counts: Sequence[str]) -> None:
    """Accuracy over how many ids are wrong. runs: by way, a share per count."""
    for i, run in enumerate(runs):
        for (way, shares), look in zip(run.items(), ("reassigned", "stretched"), strict=False):
            line(ax, range(len(counts)), shares, f"wrong ids {way}", i, look)
    ax.set_xticks(range(len(counts)), counts)
    ax.set_xlabel("wrong ids")
    percent_axis(ax, "right answers, REC (%)")


def _points(
    ax: Axes, where: Sequence[float], effects: Sequence[Effect], axis: str, run: int, flat: bool = False
) -> None:
    """Values with intervals; `flat`: values run along x."""
    look, values = LOOKS[axis], [e.value for e in effects]
    spread = [[max(0.0, e.value - e.low) for e in effects], [max(0.0, e.high - e.value) for e in effects]]
    x, y = (values, where) if flat else (where, values)
    ax.errorbar(
        x, y, xerr=spread if flat else None, yerr=None if flat else spread, color=look.colour, marker=look.marker,
        linestyle="none" if flat else look.line, label=None if run or flat else LABELS[axis], elinewidth=0.8,
        capsize=2, alpha=FADED if run else 1.0, markerfacecolor="white" if run else look.colour,
    )  # fmt: skip
