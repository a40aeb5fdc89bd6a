"""The panels of a sheet: what a pruner scores and keeps of an image, and boxes on it, one axes each."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import Normalize
from matplotlib.patches import Rectangle
from matplotlib.patheffects import Normal, withStroke
from PIL import Image

from groundprune.boxes import Box, Frame
from groundprune.report.overlay import DIMMED
from groundprune.report.score_maps import Explanation, Scored
from groundprune.report.style import LEVELS, look_of

NO_SCORE = "no score"
_PIXELS = 1400  # as many on its longer side as print can show
_HALO = [withStroke(linewidth=5.6, foreground="white"), Normal()]


@dataclass(frozen=True)
class View:
    """Where panels of pruners lie: the image and the window that the model saw, or, of tiles, their grids alone."""

    image: Image.Image
    window: Box
    tiles: bool
    limits: Box

    @staticmethod
    def of(it: Explanation) -> View:
        frame: Frame = it.answers["unpruned"].frame
        window = frame.window
        tiles = any(len(scored.kept) > 1 for scored in it.scored)
        if tiles:
            rows, cols = mosaic(it.scored[0].kept, False).shape
            return View(it.image, Box(0, 0, cols, rows), True, Box(0, 0, cols, rows))
        limits = Box(
            min(0, window.x1), min(0, window.y1), max(frame.width, window.x2), max(frame.height, window.y2)
        )  # fmt: skip
        return View(it.image, window, False, limits)

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


def draw_score(ax: Axes, scored: Scored, view: View) -> None:
    """Scores as colours over the image in grey, or why there are none."""
    if scored.scores is None:
        reason = "nothing was dropped" if scored.kept_tokens == scored.total_tokens else "a rule of its own"
        ax.text(0.5, 0.5, f"{NO_SCORE}:\n{reason}", ha="center", va="center", transform=ax.transAxes)
        ax.set_facecolor("#f2f2f2")
        return
    values = np.ma.masked_invalid(mosaic(scored.scores, math.nan))
    scale = Normalize(values.min(), values.max()) if values.count() else Normalize(0, 1)
    if not view.tiles:
        show_image(ax, view.image, grey=True)
    ax.imshow(values, cmap=colormaps[LEVELS], norm=scale, alpha=1 if view.tiles else 0.72, extent=view.extent,
              interpolation="nearest")  # fmt: skip
    view.frame(ax)
    _subtitle(ax, f"score {scale.vmin:.2g} to {scale.vmax:.2g}")


def draw_kept(ax: Axes, scored: Scored, view: View) -> None:
    """What was dropped is dimmed, what was kept outlined."""
    kept = mosaic(scored.kept, False)
    _subtitle(ax, f"kept {scored.kept_tokens} of {scored.total_tokens}")
    if view.tiles:
        there = mosaic([np.ones_like(grid) for grid in scored.kept], False)
        shade = np.where(kept, 0.85, 0.3)
        ax.imshow(np.dstack([shade] * 3 + [there.astype(float)]), extent=view.extent, interpolation="nearest")
    else:
        show_image(ax, view.image)
        dim = np.zeros((*kept.shape, 4))
        dim[..., 3] = np.where(kept, 0, 1 - DIMMED)
        ax.imshow(dim, extent=view.extent, interpolation="nearest")
    ax.add_collection(PolyCollection(list(view.cells(kept)), facecolor="none", edgecolor="white", linewidth=0.4))
    view.frame(ax)


def _subtitle(ax: Axes, text: str) -> None:
    ax.set_title(text, loc="left", weight="normal", size=8, pad=4)


def show_image(ax: Axes, image: Image.Image, grey: bool = False) -> None:
    """The image in its own pixels, as sharp as print can show."""
    small = image.convert("L" if grey else "RGB")
    small.thumbnail((_PIXELS, _PIXELS))
    ax.set_facecolor("#e2e2e2")
    ax.imshow(np.asarray(small), cmap="gray", vmin=0, vmax=255, extent=(0, image.width, image.height, 0))


def draw_box(ax: Axes, box: Box, name: str) -> None:
    """name: "unpruned" or a position policy."""
    halo = _HALO if name == "unpruned" else ()
    ax.add_patch(
        Rectangle(
            (box.x1, box.y1), box.width, box.height, fill=False, edgecolor=look_of(name).colour, label=name,
            path_effects=halo, clip_on=False, **stroke(name),
        )
    )  # fmt: skip


def stroke(name: str) -> dict[str, Any]:
    """Unpruned is drawn first and thick: a box that hits it leaves it to be seen."""
    return {"linestyle": look_of(name).line, "linewidth": 4.2 if name == "unpruned" else 1.7}
