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

from groundprune.pruners.base import Pruner, Rule
from groundprune.pruners.registry import register
from groundprune.signals import Signals
from groundprune.tokens.budget import allot
from groundprune.tokens.layout import VisualLayout
from groundprune.tokens.selection import Stage


@register
@dataclass(frozen=True)
class Spatial(Pruner):
    """Needs nothing of the image but its grid."""

    name = "spatial"
    reads_features = False
    scores_by = "an even grid"

    def rule(self, signals: Signals, layout: VisualLayout, stage: Stage) -> Rule:
        def rule(pool: Tensor, count: int) -> Tensor:
            rows, cols = layout.grid(pool)
            cell = layout.row[pool] * cols + layout.col[pool]
            return torch.isin(cell, select_spatial(rows, cols, count)).nonzero().squeeze(1)

        return rule


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
