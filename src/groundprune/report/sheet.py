"""The sheet of one image: its boxes under each position policy, and what every pruner scores and keeps of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from groundprune.answers import Answer
from groundprune.report.figures import save_figure
from groundprune.report.panels import View, draw_box, draw_kept, draw_score, show_image, stroke
from groundprune.report.score_maps import Explanation
from groundprune.report.style import PRINT_GRID, PRINT_INK, look_of, settings

SUFFIXES = (".png", ".svg")
_STYLE: list[Any] = ["default", {**settings(PRINT_INK, PRINT_GRID), "svg.fonttype": "path"}]

_WIDTH = 10.0  # inches, as all that follow
_MARGIN, _GAP = 0.3, 0.14
_TITLE, _NAME, _LINE = 0.34, 0.5, 0.19
_TALLEST = 4.4  # of the two panels with boxes
_FEW = 8  # pruners that stand two by two; more stand three by three
_CHARACTERS = 140  # of a line of text across the sheet


def write_sheet(explanation: Explanation, path: str | Path) -> None:
    """Draw the sheet and write it as PNG (300 dpi) or SVG, by the suffix. Raises OSError where the disk refuses."""
    with style.context(_STYLE):
        save_figure(draw_sheet(explanation), Path(path))


def draw_sheet(explanation: Explanation) -> Figure:
    """The sheet as a figure. Its axes are labelled "image", "boxes", and "score NAME", "kept NAME" per pruner."""
    with style.context(_STYLE):
        return _Page(explanation).figure


class _Page:
    """Lays the parts from the top downwards; inches, y counted from the top."""

    def __init__(self, explanation: Explanation):
        self.it = explanation
        across = 2 if len(explanation.scored) <= _FEW else 3
        self.side = (_WIDTH - 2 * _MARGIN - (2 * across - 1) * _GAP) / (2 * across)
        self.view = View.of(explanation)
        half = (_WIDTH - 2 * _MARGIN - _GAP) / 2
        picture = min(_TALLEST, max(0.4, half * explanation.image.height / explanation.image.width))
        panel = self.side * self.view.shape
        headings, keys, notes = self._headings(), len(explanation.answers), self._notes()
        rows = math.ceil(len(explanation.scored) / across)
        self.height = (
            2 * _MARGIN + _LINE * (len(headings) + 0.5) + _TITLE + picture + _LINE * (math.ceil(keys / 2) + 1.2)
            + rows * (panel + _NAME + _GAP) + _LINE * len(notes)
        )  # fmt: skip
        self.figure = Figure(figsize=(_WIDTH, self.height))
        y = self._text(_MARGIN, headings, bold=True) + _LINE / 2 + _TITLE
        self._draw_boxes(y, half, picture)
        y += picture + _LINE / 2
        self._legend(y)
        y += _LINE * (math.ceil(keys / 2) + 0.7)
        for index, scored in enumerate(explanation.scored):
            row, column = divmod(index, across)
            x = _MARGIN + 2 * column * (self.side + _GAP)
            top = y + row * (panel + _NAME + _GAP)
            self._text(top + _GAP, [_short(scored.label, int(_CHARACTERS * 0.75 / across))], x, bold=True)
            draw_score(self._axes(f"score {scored.label}", x, top + _NAME, self.side, panel), scored, self.view)
            x += self.side + _GAP
            draw_kept(self._axes(f"kept {scored.label}", x, top + _NAME, self.side, panel), scored, self.view)
        self._text(y + rows * (panel + _NAME + _GAP), notes)

    def _headings(self) -> list[str]:
        asked = self.it.asked
        whose = "No pruner can be served" if asked is None else f"Pruned boxes: {asked.label}, {_budget(self.it)}"
        return [_short(f"“{self.it.text}”"), whose]

    def _notes(self) -> list[str]:
        found = []
        if any(scored.scores for scored in self.it.scored):
            found.append("Scores: dark is low, bright is high, each from its own least to its own largest value.")
        if self.view.tiles:
            found.append("The model sees this image as several tiles: one grid each, in the order of the prompt.")
        elif self.view.padded:
            found.append("Grey beside the image: padding that the model sees.")
        found += [_short(f"{name} is not served: {reason}") for name, reason in self.it.refused.items()]
        return found

    def _draw_boxes(self, y: float, width: float, height: float) -> None:
        whole = self._axes("image", _MARGIN, y, width, height)
        every = self._axes("boxes", _MARGIN + width + _GAP, y, width, height)
        for ax, title in ((whole, "unpruned"), (every, "boxes by position policy")):
            show_image(ax, self.it.image)
            ax.set_title(title)
        for name, said in self.it.answers.items():
            for ax in (whole, every) if name == "unpruned" else (every,):
                if said.box is not None:
                    draw_box(ax, said.box, name)

    def _legend(self, y: float) -> None:
        handles = [Line2D([], [], color=look_of(name).colour, **stroke(name)) for name in self.it.answers]
        labels = [box_label(name, said) for name, said in self.it.answers.items()]
        self.figure.legend(
            handles, labels, ncols=min(2, len(labels)), loc="upper center", handlelength=3,
            bbox_to_anchor=(0.5, 1 - y / self.height), borderaxespad=0,
        )  # fmt: skip

    def _axes(self, label: str, x: float, y: float, width: float, height: float) -> Axes:
        place = (x / _WIDTH, 1 - (y + height) / self.height, width / _WIDTH, height / self.height)
        ax = self.figure.add_axes(place, label=label)
        ax.set_xticks([])
        ax.set_yticks([])
        ax.spines[:].set_visible(False)
        return ax

    def _text(self, y: float, lines: Sequence[str], x: float = _MARGIN, bold: bool = False) -> float:
        """bold: the first line. Returns where the next one would stand."""
        for line in lines:
            weight = "bold" if bold else "normal"
            self.figure.text(x / _WIDTH, 1 - y / self.height, line, va="top", weight=weight, size=8.5)
            y += _LINE
            bold = False
        return y


def box_label(name: str, said: Answer) -> str:
    """ "preserved: 12.0, 30.5, 55.0, 71.0" (x1, y1, x2, y2 in pixels of the image), or "preserved: no box"."""
    return f"{name}: " + ("no box" if said.box is None else ", ".join(f"{edge:.1f}" for edge in said.box))


def _budget(it: Explanation) -> str:
    assert it.asked is not None
    budget = str(it.asked.budget)
    return budget if it.asked.tokens is not None else f"keep {budget}"


def _short(text: str, room: int = _CHARACTERS) -> str:
    """One line of at most `room` characters."""
    text = " ".join(text.split())
    return text if len(text) <= room else text[: room - 1].rstrip() + "…"
