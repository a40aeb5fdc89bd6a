"""The oracle: the UNPRUNED sequence under an attention mask that hides the dropped tokens from all others.

Pruning with preserved positions must give exactly what this gives; it is what "exact" means here. The mask that the
model makes itself (causal, sliding window, bidirectional within images) stays, and loses the dropped columns: from
the layer on at which they were dropped, and on decoding in every layer whose cache they have left. Of layers with
linear attention no mask says that; see `exactness.stepping`.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from groundprune.errors import GroundPruneError
from groundprune.exactness.stepping import stepping_over
from groundprune.families.linear import linear_layers
from groundprune.pruning.prompt import PrunedPrompt
from groundprune.tokens.masks import allowed_by, as_given


@dataclass(frozen=True, eq=False)
class Hidden:
    """What decoder layers must not see.

    Attributes:
        layer: from which on.
        prefill: per row Long, the unpruned columns that are hidden on prefill.
        decode: likewise on decoding.
    """

    layer: int
    prefill: list[Tensor]
    decode: list[Tensor]


def hidden_columns(prompt: PrunedPrompt) -> list[Hidden]:
    """What pruning dropped, segment by segment.

    Args:
        prompt: what became of it, `gp.prune`'s `run.prompt` or `short.prompt`.

    Returns:
        Ascending by layer.
    """
    found = []
    earlier = hidden_columns(prompt.earlier)[0] if prompt.earlier is not None and prompt.earlier.rows else None
    for segment in prompt.segments:
        prefill, decode = [], []
        for b, row in enumerate(prompt.rows):
            device = segment.compaction.index.device
            dropped = torch.ones(len(row.layout), dtype=torch.bool)
            dropped[segment.kept[b]] = False
            column = (row.layout.column + prompt.offset).to(device)
            prefill.append(column[dropped.to(device)])
            held = segment.compaction.index[b, segment.compaction.mask[b]]
            decode.append(column[~torch.isin(column, held)])
            if earlier is not None:
                prefill[-1] = torch.cat([earlier.prefill[b], prefill[-1]])
                decode[-1] = torch.cat([earlier.decode[b], decode[-1]])
        found.append(Hidden(segment.layer, prefill, decode))
    return found


@contextlib.contextmanager
def hide(model: Any, hidden: Sequence[Hidden]) -> Iterator[None]:
    """While active, no column sees the hidden ones of its row, but each sees itself; linear layers step over them.

    Works with and without a dynamic cache, under sdpa and eager attention. Attention is O(length^2) per layer: an
    oracle, not a way to run.

    Args:
        model: a stock one, given unpruned prompts.
        hidden: ascending by layer.

    Raises:
        GroundPruneError: flash attention, whose layers have no 4-D mask.
    """
    implementation = model.config.get_text_config()._attn_implementation
    linear = linear_layers(model.config)

    def hidden_from(index: int, past: int, batch: int) -> list[Tensor]:
        mine = [each for each in hidden if each.layer <= index][-1]
        rows = mine.decode if past else mine.prefill
        if len(rows) != batch:
            raise GroundPruneError(f"{len(rows)} rows of hidden columns do not fit a batch of {batch}")
        return rows

    def before(index: int, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        states = args[0] if args else kwargs["hidden_states"]
        cache, new = kwargs.get("past_key_values"), states.shape[1]
        past = 0 if cache is None else int(cache.get_seq_length(index))
        columns, offset = (past + new, 0) if cache is None else (int(x) for x in cache.get_mask_sizes(new, index))
        allowed = _allowed(kwargs.get("attention_mask"), states, past, columns, offset)
        rows = hidden_from(index, past, len(states))
        query = torch.arange(past, past + new, device=states.device)
        diagonal = allowed[:, :, query - past, query - offset].clone()
        for b, gone in enumerate(rows):
            allowed[b, :, :, gone[(gone >= offset) & (gone < offset + columns)] - offset] = False
        allowed[:, :, query - past, query - offset] = diagonal
        return args, {**kwargs, "attention_mask": as_given(allowed, implementation, states.dtype)}

    with contextlib.ExitStack() as stack:
        stack.enter_context(stepping_over(model.get_decoder(), linear, hidden_from))
        for index, layer in enumerate(model.get_decoder().layers):
            if index in linear:
                continue
            hook = functools.partial(before, index)
            stack.callback(layer.register_forward_pre_hook(hook, with_kwargs=True).remove)
        yield


def _allowed(mask: Tensor | None, states: Tensor, past: int, columns: int, offset: int) -> Tensor:
    """Bool[B, 1, Q, columns], True = may attend: a layer's own mask, or the causal one that None stands for."""
    rows, new = states.shape[:2]
    if mask is None:
        query = torch.arange(past, past + new, device=states.device)[:, None]
        key = torch.arange(offset, offset + columns, device=states.device)
        return (key <= query).expand(rows, 1, -1, -1).clone()
    if mask.ndim != 4 or mask.shape[-1] != columns:
        raise GroundPruneError("the oracle needs each layer's 4-D mask over all columns: sdpa or eager attention")
    return allowed_by(mask).expand(rows, -1, -1, -1).clone()
