"""One figure for many pruners: REC against the share of kept tokens, a line each, a panel per position policy."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace

from matplotlib import colormaps
from matplotlib.axes import Axes

from groundprune.evaluation.specs import Setting
from groundprune.evaluation.summary import SettingResult, Share, Summary
from groundprune.pruners.spec import short_name
from groundprune.report.charts import TASKS, Chart, kept_percent, percent_axis, share_of, share_told
from groundprune.report.overview import BEFORE, INSIDE, WITH_TEXT, columns, knows, pruners_of
from groundprune.report.style import UNPRUNED_LOOK, Look

_MARKERS = {BEFORE: "o^vsDPX", WITH_TEXT: "s", INSIDE: "*"}
_LINES = {BEFORE: "-", WITH_TEXT: "--", INSIDE: ":"}


def pruner_charts(summary: Summary) -> list[Chart]:
    """One per policy. What a pruner chooses by is told by its line: see `overview.knows`."""
    return [_panel(summary, positions) for positions in dict.fromkeys(p for _, p in columns(summary))]


def _panel(summary: Summary, positions: str) -> Chart:
    whole, looks = summary.result(Setting().id), dict(_looks(pruners_of(summary)))
    above = None if whole is None else share_of(whole, "rec")
    lines: dict[str, list[tuple[float, Share]]] = {name: [] for name in looks}
    for result in summary.settings:
        name, share = result.setting.pruner, share_of(result, "rec")
        if name in lines and result.setting.positions == positions and share is not None:
            lines[name].append((_budget_percent(result, whole), share))

    def draw(ax: Axes) -> None:
        if above is not None:
            ax.axhline(100 * above.accuracy, color=UNPRUNED_LOOK.colour, linestyle=":", label="unpruned")
        for name, points in lines.items():
            points.sort(key=lambda point: point[0])
            look, x, y = looks[name], [x for x, _ in points], [100 * share.accuracy for _, share in points]
            ax.plot(x, y, color=look.colour, marker=look.marker, linestyle=look.line, linewidth=1.2, markersize=4,
                    label=short_name(name))  # fmt: skip
        ax.set_xlim(0, 103)
        ax.set_xticks(range(0, 101, 25))
        ax.set_xlabel("visual tokens kept (%)")
        percent_axis(ax, f"{TASKS['rec']} (%)")

    said = [
        f"{n}: " + ", ".join(f"{share_told(s)} at {x:.3g}%" for x, s in points)
        for n, points in lines.items()
        if points
    ]
    return Chart(f"pruners-{positions.replace(':', '-')}", positions, "; ".join(said) + ".", (3.6, 3.4), draw)


def _looks(names: Sequence[str]) -> Iterator[tuple[str, Look]]:
    """A colour and a marker each; the line tells what a pruner knows."""
    palette = colormaps["tab10"]
    counts = {group: itertools.count() for group in _LINES}
    for name in names:
        group = knows(name)
        i = next(counts[group])
        markers = _MARKERS[group]
        red, green, blue = (round(255 * part) for part in palette(i % 10)[:3])
        yield name, Look(f"#{red:02x}{green:02x}{blue:02x}", markers[(i + i // 10) % len(markers)], _LINES[group])


def _budget_percent(result: SettingResult, whole: SettingResult | None) -> float:
    """Of methods inside of the LLM the average over the layers: what is asked for, not what the last layer sees."""
    return kept_percent(replace(result, kept=None) if result.setting.keep else result, whole)
