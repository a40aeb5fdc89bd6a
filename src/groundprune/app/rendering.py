"""Markup of what was asked and of what is stored: everything that a user or a model wrote is escaped in here."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib import colormaps
from PIL import Image

from groundprune.app.asking import Asked, Reply
from groundprune.boxes import Box
from groundprune.report.gallery import Item, data_uri
from groundprune.report.kept_maps import border_path, dropped_path
from groundprune.report.overlay import KeptMap
from groundprune.report.panels import mosaic
from groundprune.report.style import LEVELS, TRUTH_LOOK, Look, look_of

_LONGEST_SIDE = 720  # pixels of a picture on the page
_SMALL = 300  # pixels: what is smaller is enlarged, and its pixels stay sharp
_ENVIRONMENT = Environment(
    loader=PackageLoader("groundprune.app"), autoescape=True, undefined=StrictUndefined,
    trim_blocks=True, lstrip_blocks=True,
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Panel:
    """What one way of pruning made of a request, ready to be drawn. picture: a data URI of the image."""

    asked: Asked
    image: Image.Image
    picture: str

    @property
    def look(self) -> Look:
        return look_of(self.asked.name)

    @property
    def drawing(self) -> bool:
        return max(self.image.size) < _SMALL

    @property
    def boxes(self) -> list[tuple[Box, Look]]:
        """The true one lies below."""
        truth, said = self.asked.truth, self.asked.said.box
        found = [(truth, TRUTH_LOOK)] if isinstance(truth, Box) else []
        return found if said is None else [*found, (said, self.look)]

    @cached_property
    def kept(self) -> KeptMap | None:
        """Over the image; None where nothing was pruned, or the model sees the image as several tiles."""
        scored = self.asked.scored
        if scored is None or len(scored.kept) != 1:
            return None
        return KeptMap(scored.kept[0], self.asked.said.frame)

    @property
    def dropped(self) -> str:
        return dropped_path(self.kept)

    @property
    def border(self) -> str:
        return border_path(self.kept)

    @property
    def window(self) -> Box:
        """What the model saw, in pixels of the image."""
        return self.asked.said.frame.window

    @property
    def heat(self) -> str:
        """Scores as colours over the window, a data URI; "" where there are none, or no one grid to show them on."""
        scored = self.asked.scored
        if scored is None or scored.scores is None or len(scored.scores) != 1:
            return ""
        return _pixels(_coloured(scored.scores[0]))

    @property
    def tiles(self) -> str:
        """Of an image that the model sees as several grids: kept light, dropped dark; a data URI. "" of one grid."""
        scored = self.asked.scored
        if scored is None or len(scored.kept) == 1:
            return ""
        there = mosaic([np.ones_like(grid) for grid in scored.kept], False)
        shade = np.where(mosaic(scored.kept, False), 230, 80)
        return _pixels(np.dstack([shade] * 3 + [255 * there]).astype(np.uint8))


def panels(reply: Reply, text: str, kind: str) -> str:
    """The answers side by side."""
    picture = data_uri(reply.image, _LONGEST_SIDE)
    drawn = [Panel(asked, reply.image, picture) for asked in reply.asked]
    return _ENVIRONMENT.get_template("panels.html").render(
        panels=drawn, text=text, kind=kind, notes=reply.notes, truth=reply.asked[0].truth, truth_look=TRUTH_LOOK
    )


def samples(items: Sequence[Item], title: str, missing: Sequence[str]) -> str:
    """One page of a stored run. missing: sentences on what cannot be shown."""
    looks: Mapping[str, Any] = {answer.name: look_of(answer.name) for item in items for answer in item.answers}
    return _ENVIRONMENT.get_template("samples.html").render(
        items=items, title=title, missing=missing, looks=looks, truth_look=TRUTH_LOOK
    )


def message(text: str) -> str:
    """What went wrong, for the page; "" takes the last one away."""
    return _ENVIRONMENT.get_template("message.html").render(text=text)


def _coloured(scores: np.ndarray) -> np.ndarray:
    """Float[rows, cols] -> RGBA bytes, from the least value (dark) to the largest (bright); clear where none is."""
    there = np.isfinite(scores)
    if not there.any():
        return np.zeros((*scores.shape, 4), dtype=np.uint8)
    low, high = scores[there].min(), scores[there].max()
    share = (scores - low) / (high - low) if high > low else np.zeros_like(scores)
    colours = np.asarray(colormaps[LEVELS](np.where(there, share, 0.0), bytes=True)).copy()
    colours[..., 3] = 255 * there
    return colours


def _pixels(colours: np.ndarray) -> str:
    """uint8[rows, cols, 4] as a PNG of one pixel per cell, in a data URI."""
    buffer = io.BytesIO()
    Image.fromarray(colours).save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
