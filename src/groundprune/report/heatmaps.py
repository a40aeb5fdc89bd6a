"""Pruner x budget in colours: what boxes are left, and what preserved ids gain."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize

from groundprune.evaluation.summary import Summary
from groundprune.pruners.spec import short_name
from groundprune.report.charts import Chart, percent, share_of
from groundprune.report.style import GAINS, LEVELS

_MINUS = "\N{MINUS SIGN}"


def heatmaps(summary: Summary) -> list[Chart]:
    """Pruner x budget: REC under preserved positions, and what it gains over reassigned. Empty: neither was run."""
    preserved = {
        (r.setting.pruner, r.setting.budget or ""): share.accuracy
        for r in summary.settings
        if r.setting.pruner and r.setting.positions == "preserved" and (share := share_of(r, "rec"))
    }
    gains = {(d.pruner, d.budget): d.difference for d in summary.differences if d.kind == "rec"}
    found = [
        _heatmap("level", "REC Acc@0.5, preserved (%)", preserved, signed=False),
        _heatmap("gain", "REC gain over reassigned (points)", gains, signed=True),
    ]
    return [chart for chart in found if chart is not None]


def _heatmap(key: str, title: str, values: Mapping[tuple[str, str], float], signed: bool) -> Chart | None:
    if not values:
        return None
    pruners, budgets = (list(dict.fromkeys(pair[i] for pair in values)) for i in (0, 1))
    cells = np.array([[values.get((p, b), math.nan) for b in budgets] for p in pruners])
    reach = max(0.1, float(np.nanmax(np.abs(cells)))) if signed else 1.0
    colour = colormaps[GAINS if signed else LEVELS]
    scale = Normalize(-reach if signed else 0.0, reach)

    def draw(ax: Axes) -> None:
        # Cells as shapes, not as an image: sharp in print, and no raster inside of the SVG.
        ax.pcolormesh(np.ma.masked_invalid(cells), cmap=colour, norm=scale, edgecolors="white", linewidth=1.5)
        for (row, col), value in np.ndenumerate(cells):
            red, green, blue, _ = colour(scale(value))
            ink = "black" if math.isnan(value) or 0.3 * red + 0.59 * green + 0.11 * blue > 0.46 else "white"
            missing = ax.xaxis.label.get_color()  # no cell behind it: the colour of the text
            ax.text(col + 0.5, row + 0.5, _cell(value, signed), ha="center", va="center",
                    color=missing if math.isnan(value) else ink)  # fmt: skip
        ax.set_xticks(np.arange(len(budgets)) + 0.5, budgets)
        ax.set_yticks(np.arange(len(pruners)) + 0.5, [short_name(p) for p in pruners])
        ax.set_xlabel("keep (share of the visual tokens)" if all("t" not in b for b in budgets) else "budget")
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
        ax.invert_yaxis()

    told = [
        f"{short_name(p)}: " + ", ".join(f"{_cell(v, signed)} at {b}" for b, v in zip(budgets, row, strict=True))
        for p, row in zip(pruners, cells, strict=True)
    ]
    size = (1.5 + 0.56 * max(3, len(budgets)), 0.95 + 0.42 * max(2, len(pruners)))
    return Chart(f"heat-{key}", title, "; ".join(told) + ".", size, draw)


def _cell(value: float, signed: bool) -> str:
    if math.isnan(value):
        return "n/a"
    return f"{100 * value:+.1f}".replace("-", _MINUS) if signed else percent(value)
