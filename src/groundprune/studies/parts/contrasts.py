"""Weighted sums of accuracies over several settings, bootstrapped over samples: means over pruners, shares of an
accuracy, and differences between groups of questions.

Every sample counts once, however many settings answered it, so that intervals do not shrink with the settings.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from groundprune.evaluation.specs import Setting
from groundprune.report.style import Look, look_of
from groundprune.studies.parts.drawing import FADED
from groundprune.studies.parts.effects import Effect
from groundprune.studies.study import Run

Terms = Mapping[Setting, float]  # weights of settings, each setting's right answers being 0 or 1 per sample
Group = tuple[Terms, str, Collection[str] | None]  # what `values` takes
RESAMPLES = 10_000


@functools.cache
def cell(pruner: str, keep: str, positions: str = "preserved") -> Setting:
    """`Setting.of`, made once: findings ask for the same ones over and over."""
    return Setting.of(pruner, keep, positions=positions)


def mean(settings: Sequence[Setting], weight: float = 1.0) -> Terms:
    """The mean accuracy of settings, times a weight."""
    return total(*({setting: weight / len(settings)} for setting in settings))


def total(*parts: Terms) -> Terms:
    """The sum."""
    found: dict[Setting, float] = {}
    for part in parts:
        for setting, weight in part.items():
            found[setting] = found.get(setting, 0.0) + weight
    return found


def answered(runs: Sequence[Run], settings: Sequence[Setting], kind: str) -> list[Setting]:
    """Those that every run has answers of, so that a mean over them is of the same settings everywhere."""
    return [setting for setting in settings if runs and all(run.answers(setting, kind) for run in runs)]


def values(run: Run, terms: Terms, kind: str, among: Collection[str] | None = None) -> np.ndarray:
    """Float[n]: the weighted sum of each sample that all of the settings answered, by sample id.

    among: ids of samples; None = all. Empty where a setting was not run, or where there are no terms.
    """
    found = [
        {row["sample"]: weight * row["correct"] for row in run.answers(setting, kind)}
        for setting, weight in terms.items()
    ]
    both = set.intersection(*map(set, found)) if found else set()
    chosen = sorted(both if among is None else both & set(among))
    return np.array([sum(part[sample] for part in found) for sample in chosen], dtype=float)


def contrast(
    run: Run, terms: Terms, kind: str, among: Collection[str] | None = None, level: float = 0.95, seed: int = 0
) -> Effect:
    """The mean of `values`, with its percentile bootstrap interval over samples.

    level: how often the interval is to hold the truth. Where all samples agree, which no resample can doubt, the
    interval reaches as far as samples that were not drawn could move it. An Effect of n = 0 where nothing was
    measured.
    """
    found = values(run, terms, kind, among)
    if not len(found):
        return Effect(run.model, 0, 0.0, -1.0, 1.0)
    low, high = _ends(_resampled(found, seed), level, unseen(found, terms, level))
    least, most = _range(terms)
    return Effect(run.model, len(found), float(found.mean()), max(low, least), min(high, most))


def contrasts(runs: Sequence[Run], terms: Terms, kind: str, level: float = 0.95) -> list[Effect]:
    """`contrast` in each run."""
    return [contrast(run, terms, kind, level=level) for run in runs]


def between(
    run: Run, terms: Terms, kind: str, here: Collection[str], there: Collection[str], seed: int = 0
) -> Effect:
    """How much larger the mean of `values` is on the samples `here` than on those `there`.

    Two groups of different samples: paired within each, and resampled apart. n counts both.
    """
    return apart(run, (terms, kind, here), (terms, kind, there), seed)


def apart(run: Run, left: Group, right: Group, seed: int = 0) -> Effect:
    """How much larger the mean of `values` is on the left than on the right, of different samples."""
    a, b = (values(run, *group) for group in (left, right))
    if not len(a) or not len(b):
        return Effect(run.model, 0, 0.0, -1.0, 1.0)
    slack = unseen(a, left[0], 0.95) + unseen(b, right[0], 0.95)
    ends = _ends(_resampled(a, seed) - _resampled(b, seed + 1), 0.95, slack)
    return Effect(run.model, len(a) + len(b), float(a.mean() - b.mean()), *ends)


def unseen(found: np.ndarray, terms: Terms, level: float) -> float:
    """How far the mean may be from values that are all equal: 0 where they are not.

    A share p of other samples goes unseen in n draws with a chance of (1 - p) ** n; each could differ by as much as
    the weights allow.
    """
    if len(np.unique(found.round(9))) > 1:
        return 0.0
    share = 1 - ((1 - level) / 2) ** (1 / len(found))
    least, most = _range(terms)
    return share * max(most - found[0], found[0] - least)


def percent(effect: Effect) -> str:
    """An accuracy that an Effect holds: "92.4"; "-" where nothing was measured."""
    return f"{100 * effect.value:.1f}" if effect.n else "-"


def percents(effects: Sequence[Effect]) -> str:
    """A run after the other: "92.4 / 91.0"."""
    return " / ".join(percent(effect) for effect in effects)


def points(effects: Sequence[Effect]) -> str:
    """Differences, a run after the other: "-12.4 / -11.0"."""
    return " / ".join(f"{100 * effect.value:+.1f}" if effect.n else "-" for effect in effects)


def effect_line(
    ax: Axes,
    x: Sequence[float],
    effects: Sequence[Effect],
    name: str,
    run: int = 0,
    look: Look | None = None,
    joined: bool = True,
) -> None:
    """Like `drawing.line`, of Effects: in percent with their intervals, those of n = 0 left out.

    look: None = that of the policy of this name. joined: whether a line goes through the points, and
    a legend names them."""
    shown = [(at, e) for at, e in zip(x, effects, strict=True) if e.n]
    if not shown:
        return
    look = look or look_of(name)
    through = look.line if joined else "none"
    ax.errorbar(
        [at for at, _ in shown], [100 * e.value for _, e in shown],
        yerr=[
            [max(0.0, 100 * (e.value - e.low)) for _, e in shown],
            [max(0.0, 100 * (e.high - e.value)) for _, e in shown],
        ],
        color=look.colour, marker=look.marker, linestyle=through, label=None if run or not joined else name,
        elinewidth=0.8, capsize=2, alpha=FADED if run else 1.0, markerfacecolor="white" if run else look.colour,
    )  # fmt: skip


def _range(terms: Terms) -> tuple[float, float]:
    """What a weighted sum can be at least and at most."""
    weights = terms.values()
    return sum(w for w in weights if w < 0), sum(w for w in weights if w > 0)


def _resampled(found: np.ndarray, seed: int) -> np.ndarray:
    """Float[RESAMPLES], means. Few values differ, and how often each is drawn is multinomial: drawn directly."""
    different, counts = np.unique(found.round(9), return_counts=True)
    draws = np.random.default_rng(seed).multinomial(len(found), counts / len(found), RESAMPLES)
    return draws @ different / len(found)


def _ends(draws: np.ndarray, level: float, slack: float) -> tuple[float, float]:
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    # Sums of thirds leave 1e-17 where there is 0, which must not count as above it.
    return round(float(low) - slack, 9), round(float(high) + slack, 9)
