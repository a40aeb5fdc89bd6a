"""The three panels of the study `filter`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes

from groundprune.evaluation.summary import Share
from groundprune.report.style import look_of
from groundprune.studies.parts.drawing import FADED, line
from groundprune.studies.parts.effects import Effect

LOOKS = {"background": "preserved", "distractors": "official", "at random": "reassigned"}
PARTS = {"before": "unpruned", "left over": "stretched", "after": "reassigned-image"}


def draw_gains(ax: Axes, gains: Mapping[str, Mapping[str, Sequence[Effect]]]) -> None:
    """Points over the unpruned model. gains: by region and type of expression, an effect per run."""
    types = list(next(iter(gains.values()), {}))
    for j, (region, by_type) in enumerate(gains.items()):
        for x, type in enumerate(types):
            for i, effect in enumerate(by_type[type]):
                name = region if x == i == 0 else None
                _point(ax, x + 0.26 * (j - 1) + 0.09 * i, effect, LOOKS[region], i, name)
    ax.axhline(0, color="#8A8A8A", linewidth=0.8)
    ax.set_xticks(range(len(types)), types)
    ax.set_xlabel("type of expression")
    ax.set_ylabel("over unpruned (points)")
    ax.grid(axis="y")


def draw_shares(ax: Axes, runs: Sequence[Mapping[str, Sequence[Share]]], shares: Sequence[float]) -> None:
    """Accuracy over how many tokens are gone, as a share of the background."""
    for i, run in enumerate(runs):
        for name, found in run.items():
            line(ax, [100 * share for share in shares], found, name, i, LOOKS[name])
    ax.set_xlabel("dropped (% of the background's tokens)")
    ax.set_ylabel("right answers, REC (%)")
    ax.grid(axis="y")


def draw_attention(ax: Axes, runs: Sequence[Mapping[str, Mapping[str, Effect]]]) -> None:
    """Share of the attention over the image that the target gets. runs: by what is dropped and PARTS."""
    names = list(runs[0]) if runs else []
    for i, run in enumerate(runs):
        for y, name in enumerate(names):
            for j, part in enumerate(PARTS):
                label = f"attention {part}" if y == i == 0 else None
                _point(ax, y + 0.26 * (j - 1) + 0.09 * i, run[name][part], PARTS[part], i, label, flat=True)
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.set_xlabel("of attention over the image: target (%)")
    ax.grid(axis="x")


def _point(ax: Axes, at: float, effect: Effect, policy: str, run: int, name: str | None, flat: bool = False) -> None:
    """A share with its interval, in percent; nothing where nothing was measured."""
    if not effect.n:
        return
    look, value = look_of(policy), 100 * effect.value
    spread = [[max(0.0, value - 100 * effect.low)], [max(0.0, 100 * effect.high - value)]]
    x, y = (value, at) if flat else (at, value)
    ax.errorbar(
        [x], [y], xerr=spread if flat else None, yerr=None if flat else spread, color=look.colour,
        marker=look.marker, linestyle="none", label=name, elinewidth=0.8, capsize=2, alpha=FADED if run else 1.0,
        markerfacecolor="white" if run else look.colour,
    )  # fmt: skip
