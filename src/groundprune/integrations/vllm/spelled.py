"""Images in whose range of the prompt text stands, too: marks before tiles, breaks behind rows; needs no vLLM.

How many tokens stay between two such marks may depend on what the image shows, and slots are dealt out before the
tower has seen it. So all of the range is filled from behind the tower: with the tokens that stay and the embeddings
of the text, in their order, each with its offset.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from groundprune.errors import GroundPruneError
from groundprune.integrations.vllm.spans import slots_left
from groundprune.integrations.vllm.tiled import TiledImage
from groundprune.tokens.layout import VisualUnit

IDS = "image_ids"  # under which vLLM holds Long[L] of each image, beside its pixels


@dataclass(frozen=True, eq=False)
class SpelledImage(TiledImage):
    """An image and all that stands for it in a prompt.

    units: what the encoder makes of it, its tiles, in order; N tokens in all. ids: Long[L], its range in the unpruned
    prompt. visual: Long[N], which of the range are placeholders.
    """

    ids: Tensor
    visual: Tensor

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def is_patch(self) -> Tensor:
        """Bool[L]."""
        found = torch.zeros(len(self), dtype=torch.bool)
        found[self.visual] = torch.cat([unit.is_patch for unit in self.units])
        return found

    @cached_property
    def text(self) -> Tensor:
        """Long[L - N]: which of the range are no placeholders."""
        return self.slots(self.visual.new_empty(0))

    def slots(self, kept: Tensor) -> Tensor:
        """Long[K], which of the N tokens stay -> Long[K + L - N], which of the range: they, and all text."""
        return slots_left(len(self), self.visual, kept)

    def prompt(self, count: int) -> list[int]:
        """Ids for `count` slots: all text, and placeholders for the rest, where the first of the image stood."""
        return self.ids[self.slots(torch.arange(count - len(self.text)))].tolist()


def spelled(units: Iterable[VisualUnit], ids: Iterable[Tensor], image_token: int) -> list[SpelledImage]:
    """The images of a batch. units: of all of them, in order; ids: Long[L] of each.

    Raises GroundPruneError where an image's units do not fill its placeholders.
    """
    waiting = iter(units)
    images = []
    for each in ids:
        visual = (each == image_token).nonzero().squeeze(1).cpu()
        mine: list[VisualUnit] = []
        while sum(map(len, mine)) < len(visual) and (unit := next(waiting, None)) is not None:
            mine.append(unit)
        if sum(map(len, mine)) != len(visual):
            raise GroundPruneError(
                f"an image has {len(visual)} placeholders in its prompt and {sum(map(len, mine))} features"
            )
        images.append(SpelledImage(tuple(mine), each.cpu(), visual))
    return images
