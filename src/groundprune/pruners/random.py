"""`random`: a uniform subset without replacement, the baseline that every method has to beat.

The choice is a function of (seed, pixels) alone. Not of the batch row: beams and num_return_sequences expand rows
before prefill, and must see the same tokens. Nor of the image's place in its prompt: a server keeps what it made of
an image and hands it to other prompts.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from groundprune.errors import GroundPruneError
from groundprune.pruners.base import Pruner
from groundprune.pruners.registry import register
from groundprune.signals import FINGERPRINT, Signals
from groundprune.tokens.layout import VisualLayout
from groundprune.tokens.selection import Stage

_MODULUS = 2**61 - 1  # a Mersenne prime: keeps mixed seeds inside of what torch.Generator takes


@register
@dataclass(frozen=True)
class Random(Pruner):
    """A function of the seed and the pixels.

    Args:
        seed: Another seed gives another subset of the same image.
    """

    seed: int = 0
    name = "random"
    reads_features = False  # chance is drawn on the CPU, the same for all devices
    scores_by = "chance"
    needs = frozenset({FINGERPRINT})

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.seed, int) or self.seed < 0:
            raise GroundPruneError(f"seed must be a whole number of at least 0 (got {self.seed!r})")

    def score(self, signals: Signals, layout: VisualLayout, stage: Stage) -> Tensor:
        score = torch.zeros(len(layout))
        for index, fingerprint in enumerate(signals.fingerprint):
            mine = layout.host.image == index
            generator = torch.Generator().manual_seed((fingerprint * 1_000_003 + self.seed * 8_191) % _MODULUS)
            score[mine] = torch.rand(int(mine.sum()), generator=generator)
        return score
