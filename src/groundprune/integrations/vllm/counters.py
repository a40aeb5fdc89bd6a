"""Prometheus counters of visual tokens, beside vLLM's own on a server's /metrics."""

from __future__ import annotations

import functools
from typing import Any

KEPT, DROPPED = "groundprune_visual_tokens_kept", "groundprune_visual_tokens_dropped"


@functools.cache
def _counters() -> tuple[Any, Any]:
    # Made where they are used: they live in this process, or in the files that several share.
    from prometheus_client import Counter

    return (
        Counter(KEPT, "Visual tokens that images of admitted requests kept.", ["pruner"]),
        Counter(DROPPED, "Visual tokens that images of admitted requests lost.", ["pruner"]),
    )


def count(pruner: str, kept: int, dropped: int) -> None:
    """Add one image of a request."""
    for counter, tokens in zip(_counters(), (kept, dropped), strict=True):
        counter.labels(pruner).inc(tokens)


def counted() -> dict[str, dict[str, int]]:
    """{"kept": tokens by pruner, "dropped": likewise}, of all processes of this server."""
    from vllm.v1.metrics.prometheus import get_prometheus_registry

    found: dict[str, dict[str, int]] = {"kept": {}, "dropped": {}}
    for metric in get_prometheus_registry().collect():
        if metric.name in (KEPT, DROPPED):
            for sample in metric.samples:
                if sample.name.endswith("_total"):
                    found[metric.name.rpartition("_")[2]][sample.labels["pruner"]] = int(sample.value)
    return found
