"""How every figure looks: one palette that the colour-blind tell apart, one set of matplotlib settings.

Colour never stands alone: each policy has a marker and a line of its own, each bar and each cell its number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from groundprune.report.overlay import GROUND_TRUTH, PRESERVED, REASSIGNED, UNPRUNED

# In a web page these two are replaced, so that text and grid follow its light or dark theme. No other colour may
# be equal to one of them.
PAGE_INK, PAGE_GRID = "#010203", "#010204"
PRINT_INK, PRINT_GRID = "#222222", "#d6d6d6"
PRINT_DPI = 300

LEVELS = "cividis"  # accuracies: dark is low, light is high, in grey too
GAINS = "PuOr"  # differences: orange is a loss, purple a gain, white is none


@dataclass(frozen=True)
class Look:
    """How one position policy is drawn: its line and points in a chart, its box in a picture.

    marker, line: matplotlib's letters.
    """

    colour: str
    marker: str
    line: str

    @property
    def glyph(self) -> str:
        """The marker as a character."""
        return {"s": "■", "o": "●", "^": "▲", "v": "▼", "D": "◆", "P": "✚", "X": "✖"}[self.marker]

    @property
    def dashes(self) -> str:
        """The line as SVG's stroke-dasharray."""
        return {"-": "none", ":": "2 4", "--": "8 5", "-.": "8 3 2 3"}[self.line]


TRUTH_LOOK = Look(GROUND_TRUTH, "s", "-")
UNPRUNED_LOOK = Look(UNPRUNED, "s", ":")
_LOOKS = {
    "unpruned": UNPRUNED_LOOK,
    "preserved": Look(PRESERVED, "o", "-"),
    "reassigned": Look(REASSIGNED, "^", "--"),
    "reassigned-image": Look("#CC79A7", "v", "-."),
    "stretched": Look("#E69F00", "D", "-."),
    "official": Look("#0072B2", "P", "-."),
}
_OTHER = Look("#8A8A8A", "X", "-.")


def look_of(positions: str) -> Look:
    """The look of a position policy, or of "unpruned"; policies with parameters (shifted:8, permuted:0) share one."""
    return _LOOKS.get(positions, _OTHER)


def settings(ink: str, grid: str) -> dict[str, Any]:
    """matplotlib's settings, for `matplotlib.rc_context`. ink: text and axes. grid: the lines behind the data."""
    return {
        "font.family": "sans-serif",
        "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib: the same widths on every machine
        "font.size": 9,
        "axes.titlesize": 10,
        "axes.titleweight": "bold",
        "axes.labelsize": 9,
        "xtick.labelsize": 8,
        "ytick.labelsize": 8,
        "legend.fontsize": 8.5,
        "legend.frameon": False,
        "text.color": ink,
        "axes.labelcolor": ink,
        "axes.edgecolor": ink,
        "axes.titlecolor": ink,
        "xtick.color": ink,
        "ytick.color": ink,
        "grid.color": grid,
        "grid.linewidth": 0.7,
        "axes.linewidth": 0.8,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "lines.linewidth": 1.6,
        "lines.markersize": 5,
        "figure.facecolor": "white",
        "axes.facecolor": "none",
        # A dollar sign in the name of someone's pruner is a dollar sign.
        "text.parse_math": False,
        # The same results give the same file, to the byte.
        "svg.hashsalt": "groundprune",
    }
