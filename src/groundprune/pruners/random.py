"""`random`: a uniform subset without replacement, the baseline that every method has to beat.

The choice is a function of (seed, pixels, index of the image in its prompt), never of the batch row: beams and
num_return_sequences expand rows before prefill, and must see the same tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from groundprune.layout import VisualLayout
from groundprune.pruners.base import Pruner, Stage
from groundprune.pruners.registry import register
from groundprune.signals import FINGERPRINT, Signals

_MODULUS = 2**61 - 1  # a Mersenne prime: keeps mixed seeds inside of what torch.Generator takes


@register
@dataclass(frozen=True)
class Random(Pruner):
    """seed: another seed gives another subset of the same image."""

    seed: int = 0
    name = "random"
    scores_by = "chance"
    needs = frozenset({FINGERPRINT})

    def score(self, signals: Signals, layout: VisualLayout, stage: Stage) -> Tensor:
        score = torch.zeros(len(layout))
        for index, fingerprint in enumerate(signals.fingerprint):
            mixed = (fingerprint * 1_000_003 + self.seed * 8_191 + index) % _MODULUS
            draws = torch.rand(len(layout), generator=torch.Generator().manual_seed(mixed))
            score = torch.where(layout.image.cpu() == index, draws, score)
        return score.to(layout.column.device)
