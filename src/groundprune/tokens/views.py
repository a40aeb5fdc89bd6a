"""What a layout says beside pruning: the crops and the grid of an image, and a picture of what is kept."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class LayoutViews:
    """Base of `VisualLayout`, which has these."""

    column: Tensor
    image: Tensor
    row: Tensor
    col: Tensor
    is_patch: Tensor
    crop: Tensor
    groups: Callable[..., list[Tensor]]
    here: Callable[[Tensor], Tensor]

    @property
    def host(self) -> LayoutViews:
        """The layout on the CPU."""
        raise NotImplementedError

    def crops(self, image: int) -> list[Tensor]:
        """One Long tensor of patch indices (into N) per crop of an image; empty where none of its patches is left."""
        at = self.host
        mine = at.is_patch & (at.image == image)
        count = int(at.crop[mine].max()) + 1 if bool(mine.any()) else 0
        return [self.here((mine & (at.crop == k)).nonzero().squeeze(1)) for k in range(count)]

    def grid(self, group: Tensor) -> tuple[int, int]:
        """Rows and columns of the patch grid that `group` (one of `groups()`) covers."""
        return int(self.row[group].max()) + 1, int(self.col[group].max()) + 1

    def mask(self, kept: Tensor) -> Tensor | None:
        """Which patches of the image are kept, as a picture of it.

        Args:
            kept: Long[K], indices into the N tokens.

        Returns:
            Bool[rows, cols] on the CPU; None where the row holds no image, or more than one grid of patches.
        """
        groups = self.groups()
        if len(groups) != 1:
            return None
        kept = kept.to(self.column.device)
        patches = kept[self.is_patch[kept]]
        mask = torch.zeros(self.grid(groups[0]), dtype=torch.bool)
        mask[self.row[patches].cpu(), self.col[patches].cpu()] = True
        return mask
