"""How the studies' figures look: one style, made of `groundprune.report.style`, and what several of them draw."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib import style
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from groundprune.evaluation.summary import Share
from groundprune.report.style import PRINT_GRID, PRINT_INK, look_of, settings
from groundprune.studies.study import Run, Study

# Runs beside each other: the second is drawn lighter, with an open marker.
FADED = 0.55
WIDTH, HEIGHT = 3.3, 2.6  # inches of one panel


def drawn(study: Study, runs: Sequence[Run]) -> Figure:
    """The study's figure in the style of all."""
    with style.context(["default", {**settings(PRINT_INK, PRINT_GRID), "svg.fonttype": "path"}]):
        figure = study.draw(runs)
        figure.canvas.draw()  # while the style holds
    return figure


def panels(count: int, across: int = 3, height: float = HEIGHT) -> tuple[Figure, list[Axes]]:
    """A figure of so many panels, the last row filled up with nothing; legends go outside of the data."""
    across = min(across, count)
    down = -(-count // across)
    figure = Figure(figsize=(WIDTH * across, height * down + 0.4), layout="constrained")
    axes = list(figure.subplots(down, across, squeeze=False).flat)
    for ax in axes[count:]:
        ax.set_visible(False)
    return figure, axes[:count]


def line(
    ax: Axes, x: Sequence[float], shares: Sequence[Share], name: str, run: int = 0, policy: str | None = None
) -> None:
    """Accuracies in percent with 95% intervals, those of shares without answers left out.

    run: 0 for the first model. policy: whose look it has; None = name."""
    look, points = look_of(policy or name), [(at, s) for at, s in zip(x, shares, strict=True) if s.n]
    below = [max(0.0, 100 * (s.accuracy - s.interval[0])) for _, s in points]
    above = [max(0.0, 100 * (s.interval[1] - s.accuracy)) for _, s in points]
    ax.errorbar(
        [at for at, _ in points], [100 * s.accuracy for _, s in points], yerr=[below, above], color=look.colour,
        marker=look.marker, linestyle=look.line, label=name if run == 0 else None, elinewidth=0.8, capsize=2,
        alpha=FADED if run else 1.0, markerfacecolor="white" if run else look.colour,
    )  # fmt: skip


def percent_axis(ax: Axes, label: str) -> None:
    """A y axis from 0 to 100%."""
    ax.set_ylim(-4, 104)
    ax.set_yticks(range(0, 101, 20))
    ax.set_ylabel(label)
    ax.grid(axis="y")


def legend(figure: Figure, axes: Sequence[Axes]) -> None:
    """One legend of all panels, above them."""
    handles: dict[str, Artist] = {}
    for ax in axes:
        handles |= {str(n): h for h, n in zip(*ax.get_legend_handles_labels(), strict=True)}
    if handles:
        columns = min(len(handles), max(2, int(figure.get_size_inches()[0] / 1.5)))
        figure.legend(list(handles.values()), list(handles), loc="outside upper center", ncols=columns)
