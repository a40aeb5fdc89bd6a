"""Variants that take turns: what else the machine does slows all of them alike, and ratios within a round hold."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from groundprune.studies.parts.meters import seconds
from groundprune.studies.parts.ratios import median_ratio

_SECONDS = "seconds"
Rounds = Sequence[Mapping[str, float]]  # seconds by variant, once per round


def processor_seconds(call: Callable[[], Any]) -> float:
    """Processor time of one call, which other processes of the machine hardly change; use one thread."""
    start = time.process_time()
    call()
    return time.process_time() - start


def matmul_flops(device: torch.device, size: int = 2048, repetitions: int = 5) -> float:
    """FLOP/s of this machine's matrix product, fp32 on one thread or bf16 on a GPU; the best of a few."""
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    a, b = torch.randn(2, size, size, device=device, dtype=dtype)
    return 2 * size**3 / min(seconds(lambda: a @ b, device)[0] for _ in range(repetitions + 1))


def take_turns(variants: Mapping[str, Callable[[], float]], rounds: int, seed: int = 0) -> list[dict[str, float]]:
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
    cells = [{_SECONDS: dict(each)} for each in rounds]
    effect = median_ratio(variant, cells, lambda cell: [cell[_SECONDS][variant] / cell[_SECONDS][over]])
    return {"over": over, "ratio": round(effect.value, 4), "interval": [round(effect.low, 4), round(effect.high, 4)]}


def told(ratios: Mapping[str, Any]) -> str:
    """Ratios with their intervals, in one line."""
    each = ((name, of["ratio"], *of["interval"]) for name, of in ratios.items())
    return ", ".join(f"{name} {middle:.3f} [{low:.3f}, {high:.3f}]" for name, middle, low, high in each)
