"""The sheet of one image: its boxes under each position policy, and what every pruner scores and keeps of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps, style
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.patheffects import Normal, withStroke
from PIL import Image

from groundprune.answers import Answer
from groundprune.boxes import Box, Frame
from groundprune.report.figures import save_figure
from groundprune.report.overlay import DIMMED
from groundprune.report.score_maps import Explanation, Scored
from groundprune.report.style import LEVELS, PRINT_GRID, PRINT_INK, UNPRUNED_LOOK, Look, look_of, settings

SUFFIXES = (".png", ".svg")
NO_SCORE = "no score"
_STYLE: list[Any] = ["default", {**settings(PRINT_INK, PRINT_GRID), "svg.fonttype": "path"}]

_WIDTH = 10.0  # inches, as all that follow
_MARGIN, _GAP = 0.3, 0.14
_TITLE, _NAME, _LINE = 0.34, 0.5, 0.19
_TALLEST = 4.4  # of the two panels with boxes
_FEW = 8  # pruners that stand two by two; more stand three by three
_PIXELS = 1400  # as many on its longer side as print can show
_CHARACTERS = 140  # of a line of text across the sheet
_HALO = [withStroke(linewidth=5.6, foreground="white"), Normal()]


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
        self.view = _View.of(explanation)
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
            _draw_score(self._axes(f"score {scored.label}", x, top + _NAME, self.side, panel), scored, self.view)
            x += self.side + _GAP
            _draw_kept(self._axes(f"kept {scored.label}", x, top + _NAME, self.side, panel), scored, self.view)
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
            _show_image(ax, self.it.image)
            ax.set_title(title)
        for name, said in self.it.answers.items():
            for ax in (whole, every) if name == "unpruned" else (every,):
                if said.box is not None:
                    _draw_box(ax, said.box, name)

    def _legend(self, y: float) -> None:
        handles = [Line2D([], [], color=_look(name).colour, **_stroke(name)) for name in self.it.answers]
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


@dataclass(frozen=True)
class _View:
    """Where panels of pruners lie: the image and the window that the model saw, or, of tiles, their grids alone."""

    image: Image.Image
    window: Box
    tiles: bool
    limits: Box

    @staticmethod
    def of(it: Explanation) -> _View:
        frame: Frame = it.answers["unpruned"].frame
        window = frame.window
        tiles = any(len(scored.kept) > 1 for scored in it.scored)
        if tiles:
            rows, cols = mosaic(it.scored[0].kept, False).shape
            return _View(it.image, Box(0, 0, cols, rows), True, Box(0, 0, cols, rows))
        limits = Box(
            min(0, window.x1), min(0, window.y1), max(frame.width, window.x2), max(frame.height, window.y2)
        )  # fmt: skip
        return _View(it.image, window, False, limits)

    @property
    def shape(self) -> float:
        """Height over width of a panel; very long ones get at least a strip and at most twice their width."""
        return min(2.0, max(0.15, self.limits.height / self.limits.width))

    @property
    def padded(self) -> bool:
        return (self.limits.width, self.limits.height) != self.image.size

    @property
    def extent(self) -> tuple[float, float, float, float]:
        return self.window.x1, self.window.x2, self.window.y2, self.window.y1

    def frame(self, ax: Axes) -> None:
        ax.set_xlim(self.limits.x1, self.limits.x2)
        ax.set_ylim(self.limits.y2, self.limits.y1)
        ax.set_aspect("equal")

    def cells(self, chosen: np.ndarray) -> Iterator[list[tuple[float, float]]]:
        """The corners of each chosen cell of a grid over the window."""
        rows, cols = chosen.shape
        width, height = self.window.width / cols, self.window.height / rows
        for row, col in np.argwhere(chosen):
            x, y = self.window.x1 + col * width, self.window.y1 + row * height
            yield [(x, y), (x + width, y), (x + width, y + height), (x, y + height)]


def box_label(name: str, said: Answer) -> str:
    """ "preserved: 12.0, 30.5, 55.0, 71.0" (x1, y1, x2, y2 in pixels of the image), or "preserved: no box"."""
    return f"{name}: " + ("no box" if said.box is None else ", ".join(f"{edge:.1f}" for edge in said.box))


def mosaic(grids: Sequence[np.ndarray], blank: float | bool) -> np.ndarray:
    """One grid as it is; several side by side in rows, about as many across as down, one blank line between."""
    if len(grids) == 1:
        return grids[0]
    across = math.ceil(math.sqrt(len(grids)))
    high, wide = (max(grid.shape[axis] for grid in grids) + 1 for axis in (0, 1))
    found = np.full((math.ceil(len(grids) / across) * high - 1, across * wide - 1), blank)
    for index, grid in enumerate(grids):
        row, col = index // across * high, index % across * wide
        found[row : row + grid.shape[0], col : col + grid.shape[1]] = grid
    return found


def _draw_score(ax: Axes, scored: Scored, view: _View) -> None:
    if scored.scores is None:
        reason = "nothing was dropped" if scored.kept_tokens == scored.total_tokens else "a rule of its own"
        ax.text(0.5, 0.5, f"{NO_SCORE}:\n{reason}", ha="center", va="center", transform=ax.transAxes)
        ax.set_facecolor("#f2f2f2")
        return
    values = np.ma.masked_invalid(mosaic(scored.scores, math.nan))
    scale = Normalize(values.min(), values.max()) if values.count() else Normalize(0, 1)
    if not view.tiles:
        _show_image(ax, view.image, grey=True)
    ax.imshow(values, cmap=colormaps[LEVELS], norm=scale, alpha=1 if view.tiles else 0.72, extent=view.extent,
              interpolation="nearest")  # fmt: skip
    view.frame(ax)
    _subtitle(ax, f"score {scale.vmin:.2g} to {scale.vmax:.2g}")


def _draw_kept(ax: Axes, scored: Scored, view: _View) -> None:
    kept = mosaic(scored.kept, False)
    _subtitle(ax, f"kept {scored.kept_tokens} of {scored.total_tokens}")
    if view.tiles:
        there = mosaic([np.ones_like(grid) for grid in scored.kept], False)
        shade = np.where(kept, 0.85, 0.3)
        ax.imshow(np.dstack([shade] * 3 + [there.astype(float)]), extent=view.extent, interpolation="nearest")
    else:
        _show_image(ax, view.image)
        dim = np.zeros((*kept.shape, 4))
        dim[..., 3] = np.where(kept, 0, 1 - DIMMED)
        ax.imshow(dim, extent=view.extent, interpolation="nearest")
    ax.add_collection(PolyCollection(list(view.cells(kept)), facecolor="none", edgecolor="white", linewidth=0.4))
    view.frame(ax)


def _subtitle(ax: Axes, text: str) -> None:
    ax.set_title(text, loc="left", weight="normal", size=8, pad=4)


def _show_image(ax: Axes, image: Image.Image, grey: bool = False) -> None:
    small = image.convert("L" if grey else "RGB")
    small.thumbnail((_PIXELS, _PIXELS))
    ax.set_facecolor("#e2e2e2")
    ax.imshow(np.asarray(small), cmap="gray", vmin=0, vmax=255, extent=(0, image.width, image.height, 0))


def _draw_box(ax: Axes, box: Box, name: str) -> None:
    halo = _HALO if name == "unpruned" else ()
    ax.add_patch(
        Rectangle(
            (box.x1, box.y1), box.width, box.height, fill=False, edgecolor=_look(name).colour, label=name,
            path_effects=halo, clip_on=False, **_stroke(name),
        )
    )  # fmt: skip


def _look(name: str) -> Look:
    return UNPRUNED_LOOK if name == "unpruned" else look_of(name)


def _stroke(name: str) -> dict[str, Any]:
    """Unpruned is drawn first and thick: a box that hits it leaves it to be seen."""
    return {"linestyle": _look(name).line, "linewidth": 4.2 if name == "unpruned" else 1.7}


def _budget(it: Explanation) -> str:
    assert it.asked is not None
    budget = str(it.asked.budget)
    return budget if it.asked.tokens is not None else f"keep {budget}"


def _short(text: str, room: int = _CHARACTERS) -> str:
    """One line of at most `room` characters."""
    text = " ".join(text.split())
    return text if len(text) <= room else text[: room - 1].rstrip() + "…"
