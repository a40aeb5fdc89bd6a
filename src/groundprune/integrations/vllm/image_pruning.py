"""Which tokens of one image stay, and how far each stands from the image's first; needs no vLLM."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from groundprune.errors import Unservable
from groundprune.families.base import family_of
from groundprune.integrations.vllm.settings import KEY, Settings
from groundprune.integrations.vllm.spelled import IDS, SpelledImage, spelled
from groundprune.integrations.vllm.tiled import TILES, TiledImage, tiled, units_of
from groundprune.probes.states import fingerprint
from groundprune.pruners.spatial import Spatial
from groundprune.signals import FINGERPRINT, Need, Signals, TowerRecord
from groundprune.tokens.layout import VisualLayout, VisualUnit

DIGIT = 256  # whole numbers below it are exact in bfloat16 and float16
DIGITS = 2


class ImagePruning:
    """Prunes as `gp.prune` does a prompt that holds this image alone. config: the model's, with our settings in it.

    arguments, below: those of transformers' get_image_features, for a batch of images.
    """

    def __init__(self, config: Any):
        self.config, self.family = config, family_of(config)
        self._prune_by(Settings.read(config))
        self.base = self.family.weightless(config)

    def under(self, settings: Settings) -> ImagePruning:
        """The same model's, by other settings."""
        other = copy.copy(self)
        other._prune_by(settings)
        return other

    def _prune_by(self, settings: Settings) -> None:
        self.settings = settings
        self.pruner = settings.make_pruner().for_model(self.config)
        (self.stage,) = self.pruner.stages(self.config.get_text_config().num_hidden_layers)

    @property
    def settled(self) -> bool:
        """Whether the kept tokens are known before the tower has seen the image."""
        return isinstance(self.pruner, Spatial) or self.stage.budget.share == 1

    @property
    def renumbered(self) -> bool:
        """Whether tokens are numbered anew, which they are not where all stay."""
        return self.settings.positions == "reassigned" and self.stage.budget.share != 1

    @property
    def placed_early(self) -> bool:
        """Whether all positions are known before the tower has seen the image."""
        return self.settled or self.renumbered

    @property
    def tower_needs(self) -> list[Need]:
        """What has to be read from the tower while it runs."""
        return [] if self.settled else [need for need in self.pruner.needs if need.signal.startswith("tower")]

    def arguments_of(self, item: Mapping[str, Any]) -> dict[str, Any]:
        """`arguments` of one image. item: what vLLM preprocessed of it; each element's `data` lacks the batch axis.

        Of a tower that packs images the patches are in no batch. Where an image lies wholly in cached blocks vLLM
        drops its pixels, for it is not encoded again; where it lies is asked nevertheless, and empty ones stand in.
        """
        packed = "image_grid_thw" in item
        alone = {name: element.data for name, element in item.items() if name != KEY}
        if "pixel_values" not in alone:
            alone["pixel_values"] = self._stand_in(alone)
        return {name: value if packed and name == "pixel_values" else value[None] for name, value in alone.items()}

    def _stand_in(self, alone: Mapping[str, Any]) -> Tensor:
        if "image_grid_thw" in alone:
            return torch.empty(int(alone["image_grid_thw"].prod()), 0)
        if TILES in alone:
            return torch.empty(int(alone[TILES]), 0, *self.config.vision_config.image_size)
        if "num_patches" in alone:  # Idefics3's tiles, which are not padding as long as they are not zeros
            side = self.config.vision_config.image_size
            return torch.ones(()).expand(int(alone["num_patches"]), 1, side, side)
        return torch.empty(1, 0, 0, 0)

    def units(self, arguments: Mapping[str, Any]) -> Sequence[VisualUnit | TiledImage]:
        """One an image."""
        units = self.family.units(self.base, "image", dict(arguments))
        if IDS in arguments:
            return spelled(units, arguments[IDS], self._image_token)
        return tiled(units, arguments[TILES].tolist()) if TILES in arguments else units

    def to_tokens(self, value: Tensor, arguments: Mapping[str, Any]) -> list[Tensor]:
        """See `Family.to_tokens`; those of an image's tiles one after another."""
        found = iter(self.family.to_tokens(self.base, value, "image", dict(arguments)))
        return [torch.cat([next(found) for _ in units_of(image)]) for image in self.units(arguments)]

    def count(self, unit: VisualUnit | TiledImage) -> int:
        """How many of an image's tokens stay; those that are no patches all do."""
        patches = int(unit.is_patch.sum())
        return self.stage.budget.count(patches) + len(unit) - patches

    def extent(self, unit: VisualUnit | TiledImage) -> int:
        """By how many positions an unpruned image moves what follows it."""
        if isinstance(unit, TiledImage) or self.family.position_axes == 1:
            return len(unit)
        return int(torch.cat([unit.row, unit.col]).max()) + 1

    def kept(self, unit: VisualUnit | TiledImage, projected: Tensor, values: Mapping[Need, Tensor]) -> Tensor:
        """Long[K], ascending. projected: [N, D], what the LLM would read; values: [N, ...] of each `tower_needs`."""
        units = units_of(unit)
        sizes = [len(each) for each in units]
        record = TowerRecord(
            list(units),
            {need: list(value.split(sizes)) for need, value in values.items()},
            [fingerprint(each.pixels) for each in units] if FINGERPRINT in self.pruner.needs else [],
        )
        layout = self._layout(unit).to(projected.device)
        selection = self.pruner(Signals(layout, projected, record), layout, self.stage)
        if selection.merge is not None:
            raise Unservable(f"{self.pruner.label} merges tokens, which is not done inside of vLLM")
        return selection.kept

    def settled_kept(self, unit: VisualUnit | TiledImage) -> Tensor:
        """`kept`, where it is `settled`; of a `SpelledImage` its `slots`."""
        kept = self.kept(unit, torch.empty(0), {})
        return unit.slots(kept) if isinstance(unit, SpelledImage) else kept

    def offsets(self, unit: VisualUnit | TiledImage, kept: Tensor) -> Tensor:
        """Long[A, K]: the positions of the kept tokens (`slots`), less that of the image's first token."""
        if isinstance(unit, TiledImage) or self.family.position_axes == 1:
            return kept[None]
        return torch.stack([torch.zeros_like(kept), unit.row.to(kept.device)[kept], unit.col.to(kept.device)[kept]])

    @property
    def _image_token(self) -> int:
        return self.family.token_ids(self.config)["image"]

    def _layout(self, unit: VisualUnit | TiledImage) -> VisualLayout:
        ids = unit.ids[None] if isinstance(unit, SpelledImage) else torch.full((1, len(unit)), self._image_token)
        nowhere = ids.new_zeros(self.family.position_axes, *ids.shape)
        (layout,) = self.family.layouts(self.config, ids, nowhere, {"image": list(units_of(unit))})
        return layout


def pack(features: Tensor, offsets: Tensor) -> Tensor:
    """[K, C], Long[A, K] -> [K, C + A * DIGITS]: what vLLM caches of an image holds where its tokens stood.

    In digits, so that half precision holds them exactly.
    """
    digits = [offsets // DIGIT**place % DIGIT for place in range(DIGITS)]
    return torch.cat([features, torch.cat(digits).transpose(0, 1).to(features)], dim=-1)


def unpack(packed: Sequence[Tensor], axes: int) -> tuple[list[Tensor], Tensor]:
    """The features of each item, and Long[A, sum of K]: the offsets of all."""
    width = axes * DIGITS
    digits = torch.cat([item[:, -width:] for item in packed]).transpose(0, 1).long()
    offsets = sum(digits[place * axes : (place + 1) * axes] * DIGIT**place for place in range(DIGITS))
    assert isinstance(offsets, Tensor)
    return [item[:, :-width] for item in packed], offsets
