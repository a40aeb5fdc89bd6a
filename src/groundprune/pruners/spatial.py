"""`spatial`: an even grid over the image, blind to its content.

The paper's own definition of its spatial baseline could not be read. This one spreads K tokens over about
sqrt(K * rows / cols) evenly spaced rows and evenly within each: a stride in the flattened raster, as in HiRED's
baseline, makes vertical stripes wherever it divides the width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from groundprune.pruners.base import Pruner, Stage
from groundprune.pruners.registry import register
from groundprune.signals import Signals
from groundprune.tokens.budget import allot
from groundprune.tokens.layout import VisualLayout
from groundprune.tokens.selection import Selection


@register
@dataclass(frozen=True)
class Spatial(Pruner):
    """Needs nothing of the image but its grid."""

    name = "spatial"
    scores_by = "an even grid"

    def select(self, signals: Signals, layout: VisualLayout, stage: Stage) -> Selection:
        groups = layout.groups()
        count = stage.budget.count(len(layout.patches), layout.n_images)
        keep = ~layout.is_patch
        for group, share in zip(groups, allot(count, [len(g) for g in groups]), strict=True):
            rows, cols = layout.grid(group)
            cells = select_spatial(rows, cols, share).to(group.device)
            cell = layout.row[group] * cols + layout.col[group]
            keep[group[torch.isin(cell, cells)]] = True
        return Selection(keep.nonzero().squeeze(1))


def select_spatial(rows: int, cols: int, count: int) -> Tensor:
    """Long[count]: raster indices of an even grid over rows x cols, ascending; 0 <= count <= rows * cols."""
    lines = min(rows, max(round(math.sqrt(count * rows / cols)), math.ceil(count / cols)))
    per_line = allot(count, [cols] * lines)
    cells = [
        ((2 * line + 1) * rows // (2 * lines)) * cols + (2 * torch.arange(n) + 1) * cols // (2 * n)
        for line, n in enumerate(per_line)
        if n
    ]
    return torch.cat(cells) if cells else torch.empty(0, dtype=torch.long)
