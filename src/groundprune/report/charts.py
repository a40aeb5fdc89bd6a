"""What a figure shows: values taken from a summary, drawn into one matplotlib axes, and told in words.

Accuracies are drawn in percent from 0 to 100, with 95% intervals. What has no answers yet is left out, never zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes

from groundprune.evaluation.specs import MAIN_POSITIONS, Setting
from groundprune.evaluation.summary import SettingResult, Share, Summary
from groundprune.pruners.spec import short_name
from groundprune.report.headline import Shown
from groundprune.report.style import UNPRUNED_LOOK, Look, look_of

TASKS = {"rec": "REC Acc@0.5", "vqa": "VQA exact match", "seg": "SEG Pr@0.5", "point": "point in box"}
_USUAL = ("rec", "vqa")  # of a run that has no answers yet
_TOP = 108  # above 100%: room for a marker and for the number over a full bar
BELOW = -4  # and for a marker at 0%
_APART = 1.0  # points of the x axis between the policies of one budget, which would hide each other


@dataclass(frozen=True, eq=False)
class Chart:
    """One axes. key: unique in a page. description: the same in words and numbers. size: inches."""

    key: str
    title: str
    description: str
    size: tuple[float, float]
    draw: Callable[[Axes], None]


def headline(shown: Shown) -> Chart:
    """Bars: each kind of question unpruned, preserved, reassigned."""
    groups = {
        kind: [(name, share) for name, result in shown.results.items() if (share := share_of(result, kind))]
        for kind in asked(shown.results.values())
    }
    bars = len(shown.results)

    def draw(ax: Axes) -> None:
        for group, shares in enumerate(groups.values()):
            for index, (name, share) in enumerate(shares):
                x = group * (bars + 1) + index
                look = look_of(name)
                label = name if group == 0 else None
                ax.bar(x, 100 * share.accuracy, 0.88, color=look.colour, label=label, yerr=_reach([share]), capsize=3,
                       error_kw={"ecolor": ax.xaxis.label.get_color(), "elinewidth": 1})  # fmt: skip
                ax.text(x, 100 * share.interval[1] + 1.5, percent(share.accuracy), ha="center", va="bottom")
        middles = [g * (bars + 1) + (bars - 1) / 2 for g in range(len(groups))]
        ax.set_xticks(middles, [TASKS[kind] for kind in groups])
        ax.set_xlim(-0.7, len(groups) * (bars + 1) - 1.3)  # also where the last bars have no answers yet
        ax.tick_params(axis="x", length=0)
        percent_axis(ax, "right answers (%)")

    told = [
        f"{TASKS[kind]}: " + ", ".join(f"{n} {share_told(s)}" for n, s in shares) for kind, shares in groups.items()
    ]
    return Chart("headline", f"Unpruned and pruned ({shown.title})", ". ".join(told) + ".", (4.0, 2.9), draw)


def curves(summary: Summary) -> dict[str, list[Chart]]:
    """By kind of question: accuracy against the share of kept tokens, one panel per pruner. Empty: nothing pruned."""
    pruners = list(dict.fromkeys(r.setting.pruner for r in summary.settings if r.setting.pruner))
    if not pruners:
        return {}
    return {
        kind: [curve(summary, p, kind, f"curve-{kind}-{i}") for i, p in enumerate(pruners)]
        for kind in asked(summary.settings)
    }


def policies(summary: Summary) -> dict[str, Look]:
    """The legend of `curves`: what is drawn, by name."""
    names = dict.fromkeys(r.setting.positions for r in summary.settings if r.setting.pruner)
    order = sorted(names, key=lambda name: MAIN_POSITIONS.index(name) if name in MAIN_POSITIONS else 99)
    return {"unpruned": UNPRUNED_LOOK, **{name: look_of(name) for name in order}}


def asked(results: Iterable[SettingResult]) -> list[str]:
    """The kinds of question that have answers, in the order of TASKS; before the first answer boxes and words."""
    held = list(results)
    return [kind for kind in TASKS if any(share_of(result, kind) for result in held)] or list(_USUAL)


def share_of(result: SettingResult, kind: str) -> Share | None:
    """None before the first answer: an accuracy of nothing is not 0."""
    share = getattr(result, kind).total
    return share if share.n else None


def percent(value: float) -> str:
    """A share of 0..1 as every number of a report is written, without the sign."""
    return f"{100 * value:.1f}"


def curve(summary: Summary, pruner: str, kind: str, key: str, positions: Collection[str] | None = None) -> Chart:
    """Accuracy against the share of kept tokens, a line per policy. key: see `Chart`. positions: None is all."""
    whole = summary.result(Setting().id)
    lines: dict[str, list[tuple[float, Share]]] = {}
    for result in summary.settings:
        share = share_of(result, kind)
        wanted = positions is None or result.setting.positions in positions
        if result.setting.pruner == pruner and share is not None and wanted:
            lines.setdefault(result.setting.positions, []).append((kept_percent(result, whole), share))
    for points in lines.values():
        points.sort(key=lambda point: point[0])
    above = None if whole is None else share_of(whole, kind)

    def draw(ax: Axes) -> None:
        draw_policies(ax, lines, above, apart=_APART)
        ax.set_xlim(0, 103)
        ax.set_xticks(range(0, 101, 25))
        ax.set_xlabel("visual tokens kept (%)")
        percent_axis(ax, f"{TASKS[kind]} (%)", BELOW)

    told = [f"unpruned {share_told(above)}"] if above is not None else []
    told += [
        f"{name} " + ", ".join(f"{share_told(share)} at {x:.3g}% of the tokens" for x, share in points)
        for name, points in lines.items()
    ]
    return Chart(key, short_name(pruner), "; ".join(told) + ".", (2.75, 2.35), draw)


def draw_policies(
    ax: Axes, lines: Mapping[str, Sequence[tuple[float, Share]]], above: Share | None, apart: float = 0
) -> None:
    """Accuracies in percent: a line per policy, and what the unpruned model reaches, as a line and a band.

    lines: by policy, accuracies and where on the x axis. above: of the unpruned model. apart: how far policies stand
    beside each other, on the x axis.
    """
    if above is not None:
        low, high = above.interval
        look = UNPRUNED_LOOK
        ax.axhspan(100 * low, 100 * high, color=look.colour, alpha=0.18, linewidth=0)
        ax.axhline(100 * above.accuracy, color=look.colour, linestyle=look.line, label="unpruned")
    for index, (name, points) in enumerate(lines.items()):
        look, aside = look_of(name), apart * (index - (len(lines) - 1) / 2)
        x = [x + aside for x, _ in points]
        shares = [share for _, share in points]
        ax.errorbar(x, [100 * s.accuracy for s in shares], yerr=_reach(shares), label=name, color=look.colour,
                    marker=look.marker, linestyle=look.line, elinewidth=1, capsize=2)  # fmt: skip


def kept_percent(result: SettingResult, whole: SettingResult | None) -> float:
    """Measured where it can be: budgets that count tokens stand on the same axis as shares."""
    if whole is not None and whole.kept and result.kept is not None:
        return 100 * result.kept / whole.kept
    return 100 * float(_fraction(result.setting.keep)) if result.setting.keep else math.nan


def _fraction(keep: str) -> float:
    above, _, below = keep.partition("/")
    return float(above) / float(below or 1)


def percent_axis(ax: Axes, label: str, below: float = 0) -> None:
    """A y axis from 0 to 100%. below: where it begins, to leave room for markers."""
    ax.set_ylim(below, _TOP)
    ax.set_yticks(range(0, 101, 20))
    ax.set_ylabel(label)
    ax.grid(axis="y")


def _reach(shares: Sequence[Share]) -> list[list[float]]:
    """How far the interval reaches below and above, in points; at 0% and 100% rounding must not make it negative."""
    below = [max(0.0, 100 * (s.accuracy - s.interval[0])) for s in shares]
    return [below, [max(0.0, 100 * (s.interval[1] - s.accuracy)) for s in shares]]


def share_told(share: Share) -> str:
    """An accuracy with its interval, in words."""
    return f"{percent(share.accuracy)}% ({percent(share.interval[0])} to {percent(share.interval[1])})"
