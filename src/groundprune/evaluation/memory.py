"""Batches that do not fit into memory run in halves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch

from groundprune.errors import GroundPruneError

T = TypeVar("T")


def halving(
    items: Sequence[T], work: Callable[[Sequence[T]], list[Any]], ran_out: Callable[[int], None] = lambda rows: None
) -> list[Any]:
    """work(items); where memory runs out, the halves one after the other.

    Raises GroundPruneError where a single one does not fit.
    """
    if not items:
        return []
    try:
        return work(items)
    except torch.OutOfMemoryError as error:
        if len(items) == 1:
            raise GroundPruneError("out of memory with a single prompt: the model needs a larger GPU") from error
    # Outside of `except`, whose traceback holds on to what did not fit.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    ran_out(len(items))
    middle = (len(items) + 1) // 2
    return halving(items[:middle], work, ran_out) + halving(items[middle:], work, ran_out)
