"""What a study changes of a pruner or a policy with the truth in hand, which no pruner of a user's ever has."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from groundprune.boxes import Box
from groundprune.boxes.frames import FRAMES
from groundprune.data.samples import Sample
from groundprune.errors import Unservable, unknown
from groundprune.evaluation.specs import Setting
from groundprune.pruners import Pruner
from groundprune.tokens.compaction import Policy
from groundprune.tokens.layout import VisualLayout


class Truths:
    """The samples of the batch that is being answered, one per prompt row.

    Args:
        samples: in the order of the rows.
        sizes: of their images, width and height in pixels.
        frame: what of an image the model sees, see `groundprune.boxes.frames`.
    """

    def __init__(self, samples: Sequence[Sample], sizes: Sequence[tuple[int, int]], frame: str):
        self.samples, self.sizes, self.frame = list(samples), list(sizes), frame
        self._rows: dict[int, int] = {}  # by the first unit of a row; rows are pruned first to last

    def row(self, layout: VisualLayout) -> int:
        """Which row of the batch a layout is of: pruners and policies see the rows in their order."""
        return self._rows.setdefault(layout.unit[0], len(self._rows))

    def sample(self, layout: VisualLayout) -> Sample:
        """What the prompt of this layout asks."""
        return self.samples[self.row(layout)]

    def covered(self, layout: VisualLayout, box: Box) -> Tensor:
        """How much of each token's patch lies in a box.

        Args:
            layout: of a whole prompt row.
            box: in pixels of the row's image.

        Returns:
            Float[N], shares of the patch's area; 0 at what is no patch.

        Raises:
            Unservable: the image is more than one grid of patches to the model.
        """
        if len(layout.groups()) != 1:
            raise Unservable("the truth is laid over one grid of patches; this model sees an image as several")
        size = self.sizes[self.row(layout)]
        return covered(layout, FRAMES[self.frame](*size).to_unit(box))


def covered(layout: VisualLayout, box: Box) -> Tensor:
    """Float[N]: the share of each patch's area that lies in a box of unit coordinates; the layout is of one grid."""
    rows, cols = layout.grid(layout.patches)
    down = _overlap(layout.row, rows, float(box.y1), float(box.y2))
    across = _overlap(layout.col, cols, float(box.x1), float(box.x2))
    return torch.where(layout.is_patch, down * across, 0.0)


def _overlap(cell: Tensor, count: int, low: float, high: float) -> Tensor:
    """Of cells of width 1 on a line of `count`: the share of each within low..high, which are 0..1."""
    return ((cell + 1).clamp(max=high * count) - cell.clamp(min=low * count)).clamp(min=0)


Intervention = Callable[[Pruner, Policy, Truths], tuple[Pruner, Policy]]


def chosen(
    setting: Setting, config: Any, interventions: Mapping[str, Intervention], truths: Truths
) -> tuple[Pruner, Policy]:
    """The pruner and the policy of a setting on a model of this config, after the intervention that it names.

    Raises GroundPruneError where `interventions` lacks that one.
    """
    pruner = setting.make_pruner()
    policy = setting.policy(pruner, config)
    if setting.intervention is None:
        return pruner, policy
    if setting.intervention not in interventions:
        raise unknown("intervention", setting.intervention, interventions)
    return interventions[setting.intervention](pruner, policy, truths)
