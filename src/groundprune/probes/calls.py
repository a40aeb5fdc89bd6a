"""Calls of attention functions that not every model makes: of packed sequences, and of eager attention."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from groundprune.errors import Unservable

if TYPE_CHECKING:
    from groundprune.probes.attention import AttentionCall


def sequences(call: AttentionCall, ends: Tensor) -> list[AttentionCall]:
    """A packed call of variable-length flash attention, taken apart. ends: where each sequence does, from 0 on."""
    lengths = ends.diff().tolist()
    parts = zip(*(x.split(lengths, dim=2) for x in (call.query, call.key, call.value)), strict=True)
    return [replace(call, query=query, key=key, value=value, mask=None) for query, key, value in parts]


def eager(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """What a model under eager attention calls: a function of its own modelling file."""
    for cls in type(module).__mro__:
        function = getattr(sys.modules[cls.__module__], "eager_attention_forward", None)
        if function is not None:
            return function(module, *args, **kwargs)
    raise Unservable(f"{type(module).__name__} has no eager attention function to read from")
