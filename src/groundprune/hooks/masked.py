"""The oracle: the UNPRUNED sequence under an attention mask that hides the dropped tokens from all others.

Pruning with preserved positions must give exactly what this gives; it is what "exact" means here.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from groundprune.errors import GroundPruneError


@contextlib.contextmanager
def hide(model: Any, hidden: Sequence[Tensor]) -> Iterator[None]:
    """While active, no column sees the columns `hidden[b]` of prompt row b, but each sees itself.

    hidden: one Long tensor of unpruned columns per prompt row; rows that `generate` repeats share theirs.
    Works with and without a cache. Attention is O(length^2) per layer: an oracle, not a way to run.
    """
    signature = inspect.signature(model.forward)

    def before(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[()], dict[str, Any]]:
        inputs = {**signature.bind_partial(*args).arguments, **kwargs}
        ids, cache, mask = inputs["input_ids"], inputs.get("past_key_values"), inputs.get("attention_mask")
        if mask is not None and mask.ndim != 2:
            raise GroundPruneError("the oracle builds its own masks and needs the 2-D one: use a dynamic cache")
        past = 0 if cache is None else int(cache.get_seq_length())
        copies, rest = divmod(len(ids), len(hidden))
        if rest:
            raise GroundPruneError(f"{len(hidden)} rows of hidden columns do not fit a batch of {len(ids)}")
        total = past + ids.shape[1]
        seen = torch.ones(len(ids), total, dtype=torch.bool, device=ids.device) if mask is None else mask.bool()
        seen = seen.clone()
        for b in range(len(ids)):
            seen[b, hidden[b // copies]] = False
        query = torch.arange(past, total, device=ids.device)[:, None]
        key = torch.arange(total, device=ids.device)[None]
        allowed = (seen[:, None, :] & (key <= query)) | (key == query)
        lowest = torch.finfo(model.dtype).min
        blocked = torch.zeros(allowed.shape, dtype=model.dtype, device=ids.device).masked_fill(~allowed, lowest)
        inputs["attention_mask"] = blocked[:, None]
        return (), inputs

    handle = model.register_forward_pre_hook(before, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
