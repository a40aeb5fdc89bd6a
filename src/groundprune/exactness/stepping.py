"""Linear attention in the oracle: such layers step over what is hidden.

A mask that hides a token from others says nothing of a layer that reads no keys: a convolution over the last few
tokens and a recurrent state take in whatever the layer is handed. Zeros in place of a token, which is how stock code
treats padding, still shift the convolution and let the state decay. So what is exact is defined by the layer itself:
the stock module, on the tokens alone that are not hidden.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from groundprune.errors import GroundPruneError
from groundprune.probes.patching import overlaid
from groundprune.tokens.compaction import compact


@contextlib.contextmanager
def stepping_over(
    decoder: Any, layers: Sequence[int], hidden: Callable[[int, int, int], list[Tensor]]
) -> Iterator[None]:
    """While active, these layers mix the tokens alone that are not hidden; for the others they give zeros.

    Args:
        decoder: a stock one.
        layers: those with linear attention.
        hidden: (layer, columns that the cache holds, rows) -> per row Long, the unpruned columns to step over.

    Raises:
        GroundPruneError: a layer without the module that stock code has there; or, in a forward on a cache, rows that
            step over different numbers of tokens.
    """
    past = 0

    def begin(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        nonlocal past  # before the layers run: later the cache counts the new columns too
        cache = kwargs.get("past_key_values")
        past = 0 if cache is None else int(cache.get_seq_length())

    def stepping(index: int, original: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def forward(hidden_states: Tensor, **kwargs: Any) -> Tensor:
            rows, new = hidden_states.shape[:2]
            mask = kwargs.get("attention_mask")
            seen = hidden_states.new_ones(rows, new, dtype=torch.bool) if mask is None else mask.bool()
            gone = torch.zeros_like(seen)
            for b, columns in enumerate(hidden(index, past, rows)):
                gone[b, columns[(columns >= past) & (columns < past + new)] - past] = True
            if not gone.any():
                return original(hidden_states=hidden_states, **kwargs)
            seen = seen & ~gone
            left = compact(seen)
            if past and not left.full:
                raise GroundPruneError("rows of a later turn differ in length: no oracle in linear attention")
            states = hidden_states.gather(1, left.index[..., None].expand(-1, -1, hidden_states.shape[-1]))
            kwargs["attention_mask"] = None if left.full else left.mask
            mixed = original(hidden_states=states, **kwargs)
            return torch.zeros_like(hidden_states).masked_scatter(seen[..., None], mixed[left.mask])

        return forward

    with contextlib.ExitStack() as stack:
        if layers:
            stack.callback(decoder.register_forward_pre_hook(begin, with_kwargs=True).remove)
        for index in layers:
            mixer = getattr(decoder.layers[index], "linear_attn", None)
            if mixer is None:
                raise GroundPruneError(f"layer {index} is linear attention of an unknown kind: no oracle")
            stack.enter_context(overlaid(mixer, "forward", functools.partial(stepping, index)))
        yield
