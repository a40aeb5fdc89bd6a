"""Where the visual tokens of one prompt row lie: in the sequence, in the image, on the position axis."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from groundprune.errors import GroundPruneError
from groundprune.tokens.sending import sent
from groundprune.tokens.views import LayoutViews


@dataclass(frozen=True, eq=False)
class VisualUnit:
    """What the encoder makes of one image, one tile of an image or one video: P tokens, in sequence order.

    tile, row, col: Long[P] within the unit, on the CPU as all but the pixels; row and col are -1 where a token is no
    patch. is_patch: Bool[P]. crop: Long[P], which of the crops that the tower sees a patch comes from, in the tower's
    order. overview: Bool[P], whether that crop shows the whole of the unit. pixels: what the tower sees of it, of any
    shape.
    """

    tile: Tensor
    row: Tensor
    col: Tensor
    is_patch: Tensor
    crop: Tensor
    overview: Tensor
    pixels: Tensor

    def __len__(self) -> int:
        return self.row.shape[0]

    @staticmethod
    def grid(rows: int, cols: int, pixels: Tensor, tiles: int = 1) -> VisualUnit:
        """`tiles` grids (of a video: frames) of rows x cols patches, each in raster order, one after another."""
        cell = torch.arange(rows * cols).repeat(tiles)
        tile = torch.arange(tiles).repeat_interleave(rows * cols)
        every = torch.ones_like(cell, dtype=torch.bool)
        return VisualUnit(tile, cell // cols, cell % cols, every, tile, every, pixels)


@dataclass(frozen=True, eq=False)
class VisualLayout(LayoutViews):
    """The N visual columns of one prompt row, all images, in sequence order.

    A layout is on the CPU, where reading a count waits for no device. What a pruner is given is a copy `to` the
    device of the features; counts and groups of that are read from the original.

    Attributes:
        column: Long[N], where a token stands in the unpruned row.
        image: Long[N], which image of the row it belongs to, from 0.
        tile: Long[N], which tile of the image.
        row: Long[N], its row in the tile's grid; -1 where it is no patch.
        col: Long[N], its column there; -1 where it is no patch.
        is_patch: Bool[N]; False marks a newline or separator, which is never scored and always kept.
        crop: Long[N], which crop of its image a patch comes from, in the order in which the tower sees them; a tile
            may join several (LLaVA-NeXT). -1 at a newline.
        overview: Bool[N], whether that crop shows the whole image, as an image of one crop, the overview beside its
            tiles and each frame of a video do.
        position: Long[A, N], the unpruned position ids; A = 1, or 3 for M-RoPE (time, height, width).
        length: how many columns the unpruned row has, padding included.
        unit: which of the encoder's units the row holds, in sequence order; those of videos count after those of
            images.
        original: of a copy on another device, what it is a copy of.
    """

    column: Tensor
    image: Tensor
    tile: Tensor
    row: Tensor
    col: Tensor
    is_patch: Tensor
    crop: Tensor
    overview: Tensor
    position: Tensor
    length: int
    unit: tuple[int, ...] = ()
    original: VisualLayout | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return self.column.shape[0]

    @property
    def n_images(self) -> int:
        """How many images the row holds."""
        image = self.host.image
        return int(image.max()) + 1 if len(image) else 0

    @property
    def host(self) -> VisualLayout:
        """The layout on the CPU."""
        return self.original or self

    @property
    def patches(self) -> Tensor:
        """Long[P]: which of the N columns are patches (the tokens that a pruner chooses among)."""
        return self.here(self.host.is_patch.nonzero().squeeze(1))

    @property
    def separators(self) -> Tensor:
        """Long: which of the N columns are none."""
        return self.here((~self.host.is_patch).nonzero().squeeze(1))

    def groups(self, of: str = "tile") -> list[Tensor]:
        """One Long tensor of patch indices (into N) per tile of each image, or per "image", in sequence order."""
        at = self.host
        if not len(at):
            return []
        key = at.image if of == "image" else at.image * (int(at.tile.max()) + 1) + at.tile
        found = key[at.is_patch].unique().tolist()
        return [self.here((at.is_patch & (key == k)).nonzero().squeeze(1)) for k in found]

    def subset(self, kept: Tensor) -> VisualLayout:
        """Of the tokens that are left: Long[K], in sequence, on the CPU. `unit` goes on naming the whole row's."""
        at = self.host
        names = ("column", "image", "tile", "row", "col", "is_patch", "crop", "overview")
        every = {name: getattr(at, name)[kept] for name in names}
        left = replace(at, **every, position=at.position[:, kept])
        return left if at is self else left.to(self.column.device)

    def to(self, device: torch.device | str) -> VisualLayout:
        """A copy on a device; the layout itself where it is there."""
        if self.column.device == torch.device(device):
            return self
        at = self.host
        if torch.device(device).type == "cpu":
            return at
        moved = {k: sent(v, device) for k, v in vars(at).items() if isinstance(v, Tensor)}
        return replace(at, **moved, original=at)

    def here(self, found: Tensor) -> Tensor:
        """What was found on the CPU, where the layout is."""
        return sent(found, self.column.device)


def place_units(
    ids: Tensor,
    position: Tensor,
    units: dict[str, list[VisualUnit]],
    tokens: dict[str, int],
    images_of: Callable[[Tensor, Sequence[Tensor]], list[int]],
    unit_is_crop: bool = False,
) -> list[VisualLayout]:
    """Hand out units to the placeholders of each row, first to last.

    ids: Long[B, L], position: Long[A, B, L], on the CPU; units, tokens: by modality, the units in row order and the
    id of the placeholder; images_of, unit_is_crop: see `Family`. Raises GroundPruneError where they do not fit.
    """
    joint = [unit for modality in tokens for unit in units.get(modality, [])]
    number = iter(range(len(joint)))
    waiting = {modality: deque(next(number) for _ in units.get(modality, [])) for modality in tokens}
    rows = []
    for b, row in enumerate(ids):
        found = _handed_out(row, joint, waiting, tokens)
        images = images_of(row, list(found.values()))
        rows.append(_placed(row, position[:, b], joint, found, images, unit_is_crop))
    left = sum(len(joint[i]) for rest in waiting.values() for i in rest)
    if left:
        total = sum(map(len, joint))
        raise GroundPruneError(f"the prompts hold {total - left} image placeholders, the images {total} features")
    return rows


def _handed_out(
    ids: Tensor, joint: list[VisualUnit], waiting: dict[str, deque[int]], tokens: dict[str, int]
) -> dict[int, Tensor]:
    """The units of one row, in sequence order, and the columns of each. waiting: indices into `joint`."""
    found: dict[int, Tensor] = {}
    for modality, token in tokens.items():
        column = (ids == token).nonzero().squeeze(1)
        total = len(column)
        while len(column):
            size = len(joint[waiting[modality][0]]) if waiting[modality] else 0
            if not 0 < size <= len(column):
                raise GroundPruneError(
                    f"a prompt row holds {total} {modality} placeholders, which no whole number of images "
                    f"fills: {len(column)} are left for {size} features"
                )
            found[waiting[modality].popleft()], column = column[:size], column[size:]
    return dict(sorted(found.items(), key=lambda pair: int(pair[1][0])))


def _placed(
    ids: Tensor, position: Tensor, joint: list[VisualUnit], found: dict[int, Tensor], images: list[int], crops: bool
) -> VisualLayout:
    pieces, tiles_before, crops_before = [ids.new_empty(8, 0)], Counter[int](), Counter[int]()
    for i, ((index, column), image) in enumerate(zip(found.items(), images, strict=True)):
        unit = joint[index]
        tile, crop = unit.tile + tiles_before[image], unit.crop + crops_before[image]
        # Tiles and crops count on through the units of one image.
        tiles_before[image], crops_before[image] = int(tile.max()) + 1, int(crop.max()) + 1
        whole = unit.overview & (not crops or image not in images[i + 1 :])
        piece = (column, torch.full_like(column, image), tile, unit.row, unit.col, unit.is_patch, crop, whole)
        pieces.append(torch.stack([each.to(column) for each in piece]))
    column, image, tile, row, col, patch, crop, overview = torch.cat(pieces, dim=1)
    crop, patch = crop.where(patch > 0, -1), patch > 0
    return VisualLayout(
        column, image, tile, row, col, patch, crop, overview > 0, position[:, column], len(ids), tuple(found)
    )
