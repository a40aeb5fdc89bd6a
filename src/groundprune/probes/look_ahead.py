"""What a layer will make of its states, before it runs: for a stage that scores by its own layer."""

from __future__ import annotations

import contextlib
from typing import Any, NoReturn

from torch import nn

from groundprune.probes.attention import AttentionCall, probe
from groundprune.probes.decoder import BEFORE_ROPE, LayerRecord, keep_output, last_before_rope


class _Enough(Exception):
    """Raised from within a layer once its queries and keys are known."""


def look_ahead(layer: nn.Module, record: LayerRecord, kwargs: dict[str, Any]) -> None:
    """Run a layer up to its attention, for the queries, keys and values that it will use; its cache stays."""

    def stop(call: AttentionCall) -> NoReturn:
        record.call = call
        raise _Enough

    attention = layer.get_submodule("self_attn")
    with contextlib.ExitStack() as stack:
        for name in BEFORE_ROPE:
            hook = keep_output({0: record}, 0, name)
            stack.callback(last_before_rope(attention, name).register_forward_hook(hook).remove)
        stack.enter_context(contextlib.suppress(_Enough))
        stack.enter_context(probe({attention: {"call": stop}}))
        # forward(), not the call: our own hooks stand on the call.
        layer.forward(record.hidden, **{**kwargs, "past_key_values": None, "use_cache": False})
