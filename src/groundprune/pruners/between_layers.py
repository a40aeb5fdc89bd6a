"""What methods inside of the LLM share: stages at layers, and counts whose average over the layers is the budget.

`keep` is the share of the visual tokens that a layer of the LLM sees on average: layers before the first stage see
all, so each method has a smallest keep.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from torch import Tensor

from groundprune.errors import GroundPruneError, Unservable
from groundprune.pruners.base import Pruner
from groundprune.signals import Signals
from groundprune.tokens.budget import Budget
from groundprune.tokens.layout import VisualLayout
from groundprune.tokens.selection import Stage

Curve = Callable[[float], Sequence[float]]


@dataclass(frozen=True)
class BetweenLayers(Pruner):
    """Base of the methods between layers of the LLM: a subclass gives `layers`, `curve`, and `score` or `rule`."""

    pool = "image"

    def layers(self, n_layers: int) -> list[int]:
        """The layers of the stages, rising, each in 1..n_layers - 1."""
        raise NotImplementedError

    def curve(self, x: float) -> Sequence[float]:
        """The share of the tokens that each stage leaves, see `staged`."""
        raise NotImplementedError

    def stages(self, n_layers: int) -> list[Stage]:
        layers = self.layers(n_layers)
        if not 1 <= layers[0] <= layers[-1] < n_layers:
            raise GroundPruneError(f"{self.label} prunes at the layers {layers}; this LLM has {n_layers}")
        budgets = staged(self.label, self.budget, self.curve, layers, n_layers)
        return [Stage(layer, budget, number=i) for i, (layer, budget) in enumerate(zip(layers, budgets, strict=True))]


@dataclass(frozen=True)
class Staged(Budget):
    """What one stage leaves, of a budget that holds on average over the layers; see `staged`."""

    label: str = ""
    whole: Budget | None = None
    curve: Curve | None = None
    layers: tuple[int, ...] = ()
    n_layers: int = 0
    index: int = 0

    def count(self, patches: int, images: int = 1) -> int:
        """Raises Unservable, naming the smallest, where the average cannot be met."""
        assert self.whole is not None
        assert self.curve is not None
        target = self.whole.count(patches, images)
        if target >= patches:
            return patches
        least = math.ceil(self.average(patches, 0.0))
        if target < least:
            raise Unservable(
                f"{self.label} prunes from layer {self.layers[0]} of {self.n_layers} on: of {patches} tokens {least} "
                f"stay on average at least (tokens={least} or keep={least}/{patches}; {target} asked for)"
            )
        low, high = 0.0, 1.0
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if self.average(patches, middle) < target else (low, middle)
        # The bisection ends a hair beside the exact share.
        return max(1, math.floor(round(patches * self.curve(high)[self.index], 6) + 0.5))

    def average(self, patches: int, x: float) -> float:
        """Tokens per layer at the point x of the curve, without rounding; at least one per stage."""
        assert self.curve is not None
        ends = [*self.layers[1:], self.n_layers]
        left = [max(1.0, share * patches) for share in self.curve(x)]
        lengths = [end - start for start, end in zip(self.layers, ends, strict=True)]
        seen = self.layers[0] * patches + sum(n * length for n, length in zip(left, lengths, strict=True))
        return seen / self.n_layers

    def __str__(self) -> str:
        return f"stage {self.index + 1} of {len(self.layers)} of {self.whole}"


def staged(label: str, whole: Budget, curve: Curve, layers: Sequence[int], n_layers: int) -> list[Staged]:
    """One budget per stage; layers before the first one see all tokens.

    curve: x from 0 to 1 -> the share of the original tokens that each stage leaves; their average rises with x.
    Raises Unservable, naming the smallest, for a share that no x gives.
    """
    budgets = [Staged(None, None, label, whole, curve, tuple(layers), n_layers, i) for i in range(len(layers))]
    least = budgets[0].average(10**9, 0.0) / 10**9
    if whole.share is not None and whole.share <= least:
        raise Unservable(
            f"{label} prunes from layer {layers[0]} of {n_layers} on: keep must be above {least:.4g}, its average "
            f"over the layers (got {float(whole.share):g})"
        )
    return budgets


def scaled(layers: Sequence[int], n_layers: int, of: int = 32) -> list[int]:
    """Layers of an LLM of so many, as deep in one of n_layers; never two at one layer, never before layer 1."""
    found: list[int] = []
    for layer in layers:
        place = math.floor(Fraction(layer * n_layers, of) + Fraction(1, 2))
        found.append(max(place, found[-1] + 1 if found else 1))
    return found


def text_after(label: str, signals: Signals, layout: VisualLayout) -> range:
    """The columns of the unpruned row that follow its last image, whose end `layout` (the survivors) may lack.

    Raises Unservable, naming the pruner `label`, where there are none.
    """
    after = range(int(signals.layout.host.column[-1]) + 1, layout.length)
    if not after:
        raise Unservable(
            f"{label} reads the text after the image, and this prompt ends with the image: ask behind it"
        )
    return after


def last_row(signals: Signals, layer: int) -> Tensor:
    """[H, N]: the attention of the prompt's last token."""
    return signals.llm(layer, "attention")[:, -1]
