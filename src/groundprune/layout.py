"""Where the visual tokens of one prompt row lie: in the sequence, in the image, on the position axis."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class VisualLayout:
    """The N visual columns of one prompt row, all images, in sequence order.

    column, image, tile, row, col: Long[N]; `row` and `col` are -1 where a column is no patch.
    is_patch: Bool[N]; False marks a newline or separator, which is never scored and always kept.
    position: Long[A, N], the unpruned position ids; A = 1, or 3 for M-RoPE (time, height, width).
    length: number of columns of the unpruned row, padding included.
    """

    column: Tensor
    image: Tensor
    tile: Tensor
    row: Tensor
    col: Tensor
    is_patch: Tensor
    position: Tensor
    length: int

    def __len__(self) -> int:
        return self.column.shape[0]

    @property
    def n_images(self) -> int:
        return int(self.image.max()) + 1 if len(self) else 0

    @property
    def patches(self) -> Tensor:
        """Long[P]: which of the N columns are patches (the tokens that a pruner chooses among)."""
        return self.is_patch.nonzero().squeeze(1)

    def groups(self) -> list[Tensor]:
        """One Long tensor of patch indices (into N) per tile of each image, in sequence order."""
        if not len(self):
            return []
        key = self.image * (int(self.tile.max()) + 1) + self.tile
        return [(self.is_patch & (key == k)).nonzero().squeeze(1) for k in key[self.is_patch].unique().tolist()]

    def grid(self, group: Tensor) -> tuple[int, int]:
        """Rows and columns of the patch grid that `group` (one of `groups()`) covers."""
        return int(self.row[group].max()) + 1, int(self.col[group].max()) + 1

    def mask(self, kept: Tensor) -> Tensor | None:
        """Bool[rows, cols] on the CPU: which patches of the image are among `kept` (indices into the N columns).

        None where the row holds no image, or more than one grid of patches.
        """
        groups = self.groups()
        if len(groups) != 1:
            return None
        kept = kept.to(self.column.device)
        patches = kept[self.is_patch[kept]]
        mask = torch.zeros(self.grid(groups[0]), dtype=torch.bool)
        mask[self.row[patches].cpu(), self.col[patches].cpu()] = True
        return mask

    def to(self, device: torch.device | str) -> VisualLayout:
        moved = {k: v.to(device) for k, v in vars(self).items() if isinstance(v, Tensor)}
        return VisualLayout(**moved, length=self.length)
