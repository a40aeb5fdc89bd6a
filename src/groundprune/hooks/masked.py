"""The oracle: the UNPRUNED sequence under an attention mask that hides the dropped tokens from all others.

Pruning with preserved positions must give exactly what this gives; it is what "exact" means here. The mask that the
model makes itself (causal, sliding window, bidirectional within images) stays, and loses the dropped columns.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from groundprune.errors import GroundPruneError


@contextlib.contextmanager
def hide(model: Any, hidden: Sequence[Tensor]) -> Iterator[None]:
    """While active, no column sees the columns `hidden[b]` of prompt row b, but each sees itself.

    hidden: one Long tensor of unpruned columns per prompt row; rows that `generate` repeats share theirs.
    Works with and without a dynamic cache, under sdpa and eager attention. Attention is O(length^2) per layer: an
    oracle, not a way to run.
    """

    def before(index: int, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        states = args[0] if args else kwargs["hidden_states"]
        cache = kwargs.get("past_key_values")
        past = 0 if cache is None else int(cache.get_seq_length(index))
        mask = _allowed(kwargs.get("attention_mask"), states, past)
        copies, rest = divmod(len(states), len(hidden))
        if rest:
            raise GroundPruneError(f"{len(hidden)} rows of hidden columns do not fit a batch of {len(states)}")
        itself = torch.arange(states.shape[1], device=states.device)
        diagonal = mask[:, :, itself, past + itself].clone()
        for b in range(len(states)):
            mask[b, :, :, hidden[b // copies]] = False
        mask[:, :, itself, past + itself] = diagonal
        lowest = torch.finfo(states.dtype).min
        blocked = torch.zeros(mask.shape, dtype=states.dtype, device=states.device).masked_fill(~mask, lowest)
        return args, {**kwargs, "attention_mask": blocked}

    with contextlib.ExitStack() as stack:
        for index, layer in enumerate(model.get_decoder().layers):

            def hook(module: Any, args: Any, kwargs: Any, index: int = index) -> Any:
                return before(index, module, args, kwargs)

            stack.callback(layer.register_forward_pre_hook(hook, with_kwargs=True).remove)
        yield


def _allowed(mask: Tensor | None, states: Tensor, past: int) -> Tensor:
    """Bool[B, 1, Q, past + Q], True = may attend: a layer's own mask, or the causal one that None stands for."""
    rows, new = states.shape[:2]
    total = past + new
    if mask is None:
        query = torch.arange(past, total, device=states.device)[:, None]
        causal = torch.arange(total, device=states.device)[None] <= query
        return causal.expand(rows, 1, new, total).clone()
    if mask.ndim != 4 or mask.shape[-1] != total:
        raise GroundPruneError(
            "the oracle needs each layer's 4-D mask over all columns: use a dynamic cache and sdpa"
        )
    allowed = mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
    return allowed.expand(rows, -1, -1, -1).clone()
