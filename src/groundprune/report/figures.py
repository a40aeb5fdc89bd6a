"""Figures out of charts: inline SVG for a page, and files for print."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import style
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from groundprune.evaluation.summary import Summary
from groundprune.report import overview
from groundprune.report.charts import TASKS, Chart, curves, headline
from groundprune.report.cost_charts import accuracy_over_flops
from groundprune.report.headline import Shown
from groundprune.report.heatmaps import heatmaps
from groundprune.report.pruner_charts import pruner_charts
from groundprune.report.style import PAGE_GRID, PAGE_INK, PRINT_DPI, PRINT_GRID, PRINT_INK, settings
from groundprune.report.writing import replacing

FOLDER = "figures"
_TYPES = ("png", "svg")
_ACROSS = 4  # panels side by side in print; more go to a row of their own
_LEGEND_ENTRY = 1.5  # inches


def inline_svg(chart: Chart) -> str:
    """An `<svg>` element for an HTML page: its text stays text and follows the page's colours.

    Title and description are there for those who do not see it. Ids carry the chart's key, so that many charts fit
    into one page.
    """
    buffer = io.StringIO()
    with style.context(["default", {**settings(PAGE_INK, PAGE_GRID), "svg.fonttype": "none"}]):
        figure = Figure(figsize=chart.size, layout="constrained")
        chart.draw(figure.subplots())
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    drawing = buffer.getvalue()
    view = re.search(r'viewBox="([^"]*)"', drawing)
    inner = drawing[drawing.index(">", drawing.index("<svg")) + 1 :]
    # What an inline drawing does not need: who made it, and a style sheet that would reach the whole page.
    inner = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", inner, flags=re.DOTALL)
    inner = re.sub(r'\bid="|url\(#|xlink:href="#', lambda found: found.group() + chart.key + "-", inner)
    inner = inner.replace(PAGE_INK, "currentColor").replace(PAGE_GRID, "var(--line)")
    key, title, told = chart.key, html.escape(chart.title), html.escape(chart.description)
    return (
        f'<svg class="chart" viewBox="{view.group(1) if view else ""}" role="img" '
        f'style="max-width:{chart.size[0] * 1.3:.3g}in" aria-labelledby="{key}-title {key}-told">\n'
        f'<title id="{key}-title">{title}</title>\n<desc id="{key}-told">{told}</desc>{inner}'
    )


def write_figures(summary: Summary, shown: Shown, folder: str | Path) -> list[Path]:
    """headline, curves, costs, heatmaps, and pruners where they are many, as PNG (300 dpi) and SVG.

    The text of an SVG is outlines, so that it looks the same anywhere.

    folder: made where it is missing. Figures of which the run holds nothing are not written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    by_kind = curves(summary)
    written = _save(folder / "headline", [[headline(shown)]], legend=True)
    if by_kind:
        written += _save(folder / "curves", _rows(by_kind), legend=True)
    if (over := accuracy_over_flops(summary, shown)) is not None:
        written += _save(folder / "costs", [[over]], legend=True)
    if cells := heatmaps(summary):
        written += _save(folder / "heatmaps", [cells], legend=False)
    if overview.many(summary):
        written += _save(folder / "pruners", [pruner_charts(summary)], legend=True)
    return written


def _rows(by_kind: Mapping[str, Sequence[Chart]]) -> list[list[Chart]]:
    return [
        list(charts[start : start + _ACROSS])
        for kind in TASKS
        for charts in (by_kind.get(kind, ()),)
        for start in range(0, len(charts), _ACROSS)
    ]


def _save(path: Path, rows: Sequence[Sequence[Chart]], legend: bool) -> list[Path]:
    """One figure of all charts; the legend stands above the axes, where it covers no data."""
    across = max(map(len, rows))
    width = across * max(chart.size[0] for row in rows for chart in row)
    height = sum(max(chart.size[1] for chart in row) for row in rows) + (0.3 if legend else 0)
    with style.context(["default", {**settings(PRINT_INK, PRINT_GRID), "svg.fonttype": "path"}]):
        figure = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(wspace=0.04, hspace=0.04))
        grid = figure.subplots(len(rows), across, squeeze=False)
        handles: dict[str, Any] = {}
        for axes, row in zip(grid, rows, strict=True):
            for ax, chart in zip(axes, row, strict=False):
                chart.draw(ax)
                ax.set_title(chart.title)
                handles |= {str(n): h for h, n in zip(*ax.get_legend_handles_labels(), strict=True)}
            for ax in axes[len(row) :]:
                ax.set_visible(False)
        if legend and handles:
            columns = min(len(handles), max(1, int(width / _LEGEND_ENTRY)))
            figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=columns)
        files = [path.with_suffix(f".{kind}") for kind in _TYPES]
        for file in files:
            save_figure(figure, file)
    return files


def save_figure(figure: Figure, file: Path) -> None:
    """Write as PNG (300 dpi) or SVG, by the suffix, without date and version: the same figure, the same bytes."""
    blank = {"Date": None} if file.suffix.lower() == ".svg" else {"Software": None}
    with replacing(file) as draft:
        figure.savefig(draft, dpi=PRINT_DPI, metadata=blank)
