"""Ratios of costs that were measured in turns, and how sure they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from groundprune.studies.parts.costs import (
    AGAIN,
    CHOOSE,
    KEEPS,
    KV,
    MEMORY,
    PREFILL,
    PRESERVED,
    UNPRUNED,
    VARIANTS,
    Cells,
    cell,
)
from groundprune.studies.parts.effects import Effect
from groundprune.studies.study import FAILS, HOLDS, UNTOLD, Run

ENOUGH = 5  # repetitions; of fewer the bootstrap says less than it seems to
ABOUT, REPETITION = "about", "repetition"


@dataclass
class Costs:
    """What is known of one model. about: see `Bill.about`; repetitions: of all runs that measured it."""

    name: str
    about: dict[str, Any]
    repetitions: list[Cells] = field(default_factory=list)

    def of_memory(self, what: str, variant: str, keep: str) -> float:
        """Bytes (MEMORY, KV) as a share of the unpruned model's."""
        cells = self.about["cells"]
        return cells[cell(variant, keep)][what] / cells[UNPRUNED][what]

    def ratio(self, what: str, variant: str, keep: str) -> Effect:
        """Time as a share of the unpruned model's in the same repetition, whose two measurements are averaged."""
        return median_ratio(self.name, self.repetitions, lambda r: [r[cell(variant, keep)][what] / _whole(r, what)])

    def between(self, what: str, a: str, b: str, keeps: Sequence[str] = KEEPS) -> Effect:
        """How much longer a takes than b at the same keep, all keeps together, minus 1."""
        return minus_one(
            median_ratio(
                self.name, self.repetitions, lambda r: [r[cell(a, k)][what] / r[cell(b, k)][what] for k in keeps]
            )
        )

    def noise(self, what: str) -> Effect:
        """The unpruned model measured again, against itself, minus 1: what no difference looks like."""
        return minus_one(median_ratio(self.name, self.repetitions, lambda r: [r[AGAIN][what] / r[UNPRUNED][what]]))

    def choosing(self, variant: str, keep: str) -> Effect:
        """What pruning adds before the prefill, as a share of the unpruned prefill."""
        return median_ratio(
            self.name, self.repetitions, lambda r: [r[cell(variant, keep)][CHOOSE] / _whole(r, PREFILL)]
        )


def _whole(repetition: Cells, what: str) -> float:
    return (repetition[UNPRUNED][what] + repetition[AGAIN][what]) / 2


def minus_one(effect: Effect) -> Effect:
    """By how much a ratio differs from 1."""
    return Effect(effect.model, effect.n, effect.value - 1, effect.low - 1, effect.high - 1)


def median_ratio(
    name: str, repetitions: Sequence[Cells], ratios: Callable[[Cells], Sequence[float]], resamples: int = 4000
) -> Effect:
    """The median of ratios with its 95% percentile bootstrap interval over repetitions.

    Args:
        name: of the model.
        repetitions: each with the ratios of variants that took turns.
        ratios: the ratios of one, always as many.
        resamples: of the bootstrap; one of repetitions takes all ratios of a repetition together.

    Returns:
        Effect; the interval is all of 0..2 where repetitions are fewer than ENOUGH.
    """
    if not repetitions:
        return Effect(name, 0, 0.0, 0.0, 2.0)
    each = np.array([ratios(repetition) for repetition in repetitions])
    middle = float(np.median(each))
    if len(each) < ENOUGH:
        return Effect(name, len(each), middle, min(0.0, middle), max(2.0, middle))
    drawn = np.random.default_rng(0).integers(len(each), size=(resamples, len(each)))
    low, high = np.quantile(np.median(each[drawn].reshape(resamples, -1), axis=1), [0.025, 0.975])
    return Effect(name, len(each), middle, float(low), float(high))


def costs_of(runs: Sequence[Run], given: str) -> list[Costs]:
    """By model, what all runs measured: those of real widths are the same model in every run.

    given: what steps call the run's own model, which gets the run's name.
    """
    found: dict[str, Costs] = {}
    for run in runs:
        for step, about in run.measured.items():
            size, _, what = step.rpartition("/")
            if what != ABOUT or "cells" not in about:
                continue
            name = run.model if size == given else size
            kind = about["device"], about["dtype"]
            known = found.setdefault(f"{name} {kind}", Costs(name, about))
            known.repetitions += _repetitions(run.measured, size)
    return list(found.values())


def _repetitions(measured: Mapping[str, Any], size: str) -> list[Cells]:
    return [value for step, value in measured.items() if step.startswith(f"{size}/{REPETITION} ")]


def bytes_between(costs: Costs, other: str) -> Effect:
    """How much higher the peak is with preserved ids; counted, not sampled: the interval is that of the keeps."""
    each = [costs.of_memory(MEMORY, PRESERVED, k) / costs.of_memory(MEMORY, other, k) - 1 for k in KEEPS]
    return Effect(costs.name, len(each), sum(each) / len(each), min(each), max(each))


def equal_caches(costs: Sequence[Costs]) -> tuple[str, str]:
    """Whether the variants' caches hold equally many bytes, in words; and the verdict."""
    if not costs:
        return "not measured", UNTOLD
    cells = [of.about["cells"] for of in costs]
    equal = sum(len({of[cell(variant, keep)][KV] for variant in VARIANTS}) == 1 for of in cells for keep in KEEPS)
    total = len(costs) * len(KEEPS)
    return f"equal in {equal} of {total} pairs of model and keep", HOLDS if equal == total else FAILS
