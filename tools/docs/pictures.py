"""The drawings of the docs that make positions plain, made by the policies themselves.

Transparent, with text and lines in a colour that follows the reader's light or dark setting.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import torch
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

from groundprune.report.style import PAGE_GRID, PAGE_INK, UNPRUNED_LOOK, look_of, settings
from groundprune.tokens.layout import VisualLayout
from groundprune.tokens.positions import PLAIN, Row

FIRST = ("preserved", "reassigned", "reassigned-image", "stretched")
_LIGHT, _DARK = ("#222222", "#c9c9c9"), ("#e6e6e6", "#5c5c5c")  # ink and grid
_SCHEME = (
    f"<style>:root{{color:{_LIGHT[0]};--line:{_LIGHT[1]}}}"
    f"@media (prefers-color-scheme:dark){{:root{{color:{_DARK[0]};--line:{_DARK[1]}}}}}</style>"
)
_BEFORE, _VISUAL, _AFTER = ["USER", ":"], 8, ["where", "is", "…"]
_KEPT = [0, 3, 4, 6]
_SIDE = 6  # of the grid in `grid`
_OBJECTS = {"mug": ([14, 15, 20, 21], "#56B4E9"), "lamp": ([28, 29, 34, 35], "#E69F00")}
_BACKGROUND = [0, 5, 10, 18, 24, 31]
_PLAIN = "#A8A8A8"


def row() -> Figure:
    """Every token of one prompt stands over its position id: unpruned, and pruned under each policy."""
    length = len(_BEFORE) + _VISUAL + len(_AFTER)
    prompt = _prompt(len(_BEFORE), _VISUAL, len(_AFTER), columns=_VISUAL, kept=_KEPT)
    figure = Figure(figsize=(8.2, 3.6))
    ax = figure.add_axes((0.19, 0.12, 0.8, 0.85))
    names = [*_BEFORE, *(f"v{i}" for i in range(_VISUAL)), *_AFTER]
    lines = [("unpruned", UNPRUNED_LOOK.colour, list(range(length)), list(range(length)))]
    for name in FIRST:
        ids, _ = PLAIN[name](prompt)
        lines.append((name, look_of(name).colour, prompt.column.tolist(), ids[0].tolist()))
    for y, (name, colour, columns, ids) in enumerate(lines):
        ax.text(-0.9, y, name, ha="right", va="center", weight="bold", color=colour)
        unused = [place for place in range(length) if place not in ids]
        ax.plot(unused, [y] * len(unused), ".", color=PAGE_GRID)
        for column, place in zip(columns, ids, strict=True):
            visual = len(_BEFORE) <= column < len(_BEFORE) + _VISUAL
            _token(ax, place, y, names[column], colour if visual else None)
    ax.set_xlim(-0.6, length - 0.4)
    ax.set_ylim(len(lines) - 0.5, -0.5)
    ax.set_xticks(range(length))
    ax.set_xlabel("position id")
    ax.set_yticks([])
    ax.spines["left"].set_visible(False)
    return figure


def grid() -> Figure:
    """Left: where the kept tokens lie in the image. Right: the places that their reassigned ids stand for."""
    kept = sorted([*_BACKGROUND, *(cell for cells, _ in _OBJECTS.values() for cell in cells)])
    prompt = _prompt(0, _SIDE * _SIDE, 0, columns=_SIDE, kept=kept)
    figure = Figure(figsize=(8.2, 4.2))
    for x, name in enumerate(("preserved", "reassigned")):
        ax = figure.add_axes((0.01 + 0.5 * x, 0.02, 0.48, 0.86))
        ids, _ = PLAIN[name](prompt)
        _image(ax, dict(zip(kept, ids[0].tolist(), strict=True)))
        said = "ids say where each token was" if name == "preserved" else "ids say that they lie here"
        ax.set_title(f"{name}: {said}", color=look_of(name).colour)
    return figure


PICTURES: dict[str, Callable[[], Figure]] = {"row": row, "grid": grid}


def picture_svg(name: str) -> str:
    """The SVG file of one of PICTURES: the same bytes each time."""
    return drawing_svg(PICTURES[name])


def drawing_svg(draw: Callable[[], Figure]) -> str:
    """The SVG file of what `draw` draws, its ink and grid in the reader's light or dark setting."""
    buffer = io.StringIO()
    with style.context(["default", {**settings(PAGE_INK, PAGE_GRID), "svg.fonttype": "path"}]):
        draw().savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    drawing = buffer.getvalue()
    start = drawing.index(">", drawing.index("<svg")) + 1
    drawing = f"{drawing[:start]}\n {_SCHEME}{drawing[start:]}"
    return drawing.replace(PAGE_INK, "currentColor").replace(PAGE_GRID, "var(--line)")


def _prompt(before: int, visual: int, after: int, columns: int, kept: list[int]) -> Row:
    """One image of `visual` tokens between words, of which `kept` stay."""
    index = torch.arange(visual)
    layout = VisualLayout(
        column=before + index, image=torch.zeros_like(index), tile=torch.zeros_like(index), row=index // columns,
        col=index % columns, is_patch=torch.ones(visual, dtype=torch.bool), crop=torch.zeros_like(index),
        overview=torch.ones(visual, dtype=torch.bool), position=(before + index)[None],
        length=before + visual + after,
    )  # fmt: skip
    stay = torch.tensor(kept)
    words = torch.cat([torch.arange(before), before + visual + torch.arange(after)])
    column = torch.cat([words, layout.column[stay]]).sort().values
    return Row(torch.arange(layout.length)[None], column, layout, stay)


def _token(ax: Axes, x: float, y: float, text: str, colour: str | None) -> None:
    ax.add_patch(
        FancyBboxPatch((x - 0.4, y - 0.28), 0.8, 0.56, boxstyle="round,pad=0,rounding_size=0.1",
                       facecolor=colour or "none", edgecolor=colour or PAGE_INK, linewidth=0.9)
    )  # fmt: skip
    ax.text(x, y, text, ha="center", va="center", size=8, color="black" if colour else PAGE_INK)


def _image(ax: Axes, ids: dict[int, int]) -> None:
    """ids: of each kept cell; the cell that an id belongs to, unpruned, is where the token is read as lying."""
    for cell in range(_SIDE * _SIDE):
        ax.add_patch(Rectangle((cell % _SIDE, cell // _SIDE), 1, 1, fill=False, edgecolor=PAGE_GRID, linewidth=0.9))
    colours = {cell: colour for cells, colour in _OBJECTS.values() for cell in cells}
    for cell, place in ids.items():
        x, y = place % _SIDE, place // _SIDE
        ax.add_patch(Rectangle((x + 0.06, y + 0.06), 0.88, 0.88, color=colours.get(cell, _PLAIN), linewidth=0))
        ax.text(x + 0.5, y + 0.5, str(place), ha="center", va="center", size=8.5, color="black")
    for name, (cells, colour) in _OBJECTS.items():
        x, y = cells[0] % _SIDE, cells[0] // _SIDE
        moved = [cell for cell in cells if ids[cell] != cell]
        ax.add_patch(
            Rectangle((x, y), 2, 2, fill=False, edgecolor=colour, linewidth=2.2, linestyle="--" if moved else "-")
        )  # fmt: skip
        ax.text(x + 1, y + (1.75 if moved else -0.25), name, ha="center", va="center", weight="bold")
        for cell in moved:
            _arrow(ax, cell, ids[cell])
    ax.set_xlim(-0.05, _SIDE + 0.05)
    ax.set_ylim(_SIDE + 0.05, -0.05)
    ax.set_aspect("equal")
    ax.axis("off")


def _arrow(ax: Axes, start: int, end: int) -> None:
    (x1, y1), (x2, y2) = ((cell % _SIDE + 0.5, cell // _SIDE + 0.5) for cell in (start, end))
    ax.add_patch(
        FancyArrowPatch((x1, y1 - 0.1), (x2, y2), arrowstyle="-|>", mutation_scale=11, shrinkA=0, shrinkB=12,
                        color=PAGE_INK, linewidth=0.9)
    )  # fmt: skip
