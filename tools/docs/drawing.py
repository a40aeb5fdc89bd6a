"""Drawings written as SVG by hand, where text should stay text and colours are those of one theme."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

from groundprune.boxes import Box
from groundprune.report.style import look_of

# On a light page the colours of the boxes are too pale to be letters.
_ON_LIGHT = {"unpruned": "#0a62a0", "preserved": "#00704f", "reassigned": "#b34700"}
_ON_DARK = {"unpruned": "#7cc7f2", "preserved": "#2fc79b", "reassigned": "#ff8b4a"}


@dataclass(frozen=True)
class Theme:
    """Colours on a page's own ground, light or dark."""

    dark: bool

    @property
    def ink(self) -> str:
        return "#e6edf3" if self.dark else "#1f2328"

    @property
    def muted(self) -> str:
        return "#b0bac4" if self.dark else "#4d5560"

    @property
    def line(self) -> str:
        return "#3d444d" if self.dark else "#d1d9e0"

    def legible(self, name: str) -> str:
        """The colour of a policy, in which letters of its name can be read."""
        return (_ON_DARK if self.dark else _ON_LIGHT).get(name, look_of(name).colour)


def text(
    x: float,
    y: float,
    said: str,
    size: float,
    colour: str,
    bold: bool = False,
    anchor: str = "start",
    aside: str = "",
) -> str:
    """One line of text from (x, y), its base line's start, middle or end. aside: what follows it, never bold."""
    weight = ' font-weight="700"' if bold else ""
    at = "" if anchor == "start" else f' text-anchor="{anchor}"'
    more = f'<tspan font-weight="400"> {html.escape(aside)}</tspan>' if aside else ""
    begin = f'<text x="{x:g}" y="{y:g}" font-size="{size:g}" fill="{colour}"{weight}{at}>'
    return f"{begin}{html.escape(said)}{more}</text>"


def rect(box: Box, colour: str, width: float) -> str:
    """The outline of a box."""
    return (
        f'<rect x="{box.x1:g}" y="{box.y1:g}" width="{box.width:g}" height="{box.height:g}" fill="none" '
        f'stroke="{colour}" stroke-width="{width:.4g}"/>'
    )


def polyline(points: Sequence[tuple[float, float]], colour: str, width: float, dashes: str = "none") -> str:
    """A line through points."""
    at = " ".join(f"{x:.5g},{y:.5g}" for x, y in points)
    dashed = "" if dashes == "none" else f' stroke-dasharray="{dashes}"'
    return f'<polyline points="{at}" fill="none" stroke="{colour}" stroke-width="{width:g}"{dashed}/>'
