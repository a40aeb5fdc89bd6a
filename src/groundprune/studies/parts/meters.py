"""Meters: the time of a call, the memory it needs, the bytes of a cache."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile


def seconds(call: Callable[[], Any], device: torch.device) -> tuple[float, Any]:
    """Time of a call, and what it gives: processor time on a CPU, which other processes hardly change; else of a
    clock, once the device is done."""
    if device.type == "cpu":
        start = time.process_time()
        found = call()
        return time.process_time() - start, found
    torch.cuda.synchronize(device)
    start = time.perf_counter()
    found = call()
    torch.cuda.synchronize(device)
    return time.perf_counter() - start, found


def peak(call: Callable[[], Any], device: torch.device) -> tuple[int, Any]:
    """Most bytes that tensors held at a time during a call, above what there was before; and what it gives.

    On a CPU torch's own allocations are followed one by one, those within its kernels too.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        found = call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before, found
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # the profiler's start and stop are no news
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as run:
        found = call()
    assert run.profiler is not None
    assert run.profiler.kineto_results is not None
    events: list[Any] = [e for e in run.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = np.cumsum([0, *(e.nbytes() for e in sorted(events, key=lambda e: e.start_ns()))])
    return int(held.max()), found


def kv_bytes(cache: Any) -> int:
    """Bytes of a cache's keys, values and states, counted from its tensors."""
    held = [x for layer in cache.layers if hasattr(layer, "keys") for x in (layer.keys, layer.values)]
    kinds = [getattr(layer, kind, {}) for layer in cache.layers for kind in ("conv_states", "recurrent_states")]
    held += [state for kind in kinds for state in kind.values()]
    return sum(x.numel() * x.element_size() for x in held)
