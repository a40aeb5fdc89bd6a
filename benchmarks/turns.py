"""Variants that take turns: what else the machine does slows all of them alike, and ratios within a round hold."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from groundprune.studies.parts.meters import seconds
from groundprune.studies.parts.ratios import median_ratio

Rounds = Sequence[Mapping[str, float]]  # seconds by variant, once per round


def processor_seconds(call: Callable[[], Any]) -> float:
    """Processor time of one call, which other processes of the machine hardly change; use one thread."""
    start = time.process_time()
    call()
    return time.process_time() - start


def matmul_flops(size: int = 2048, repetitions: int = 5) -> float:
    """FLOP/s of this machine's fp32 matrix product, on one thread; the best of a few."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    return 2 * size**3 / min(processor_seconds(lambda: a @ b) for _ in range(repetitions + 1))


def take_turns(
    variants: Mapping[str, Callable[[], float]], rounds: int, seed: int = 0
) -> list[dict[str, float]]:
    """Each variant once per round, in a random order, after a round that warms up.

    Args:
        variants: by name, what measures itself and gives seconds.
        rounds: how many are told.
        seed: of the orders.
    """
    random, names = np.random.default_rng(seed), list(variants)
    found = []
    for _ in range(rounds + 1):
        order = [names[i] for i in random.permutation(len(names))]
        taken = {name: variants[name]() for name in order}
        found.append({name: round(taken[name], 6) for name in names})
    return found[1:]


def timed(call: Callable[[], Any], device: torch.device) -> Callable[[], float]:
    """The call as a variant of `take_turns`: processor time on a CPU, a clock's on a GPU that is done."""
    return lambda: seconds(call, device)[0]


def ratio(rounds: Rounds, variant: str, over: str) -> dict[str, Any]:
    """The median over rounds of one variant's time over another's, with a 95% bootstrap interval over rounds."""
    effect = median_ratio(variant, [dict(each) for each in rounds], lambda r: [r[variant] / r[over]])
    return {"over": over, "ratio": round(effect.value, 4), "interval": [round(effect.low, 4), round(effect.high, 4)]}
