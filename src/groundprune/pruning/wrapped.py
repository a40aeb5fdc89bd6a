"""The transformers model inside of what wraps it."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch._dynamo import OptimizedModule
from transformers import PreTrainedModel

from groundprune.errors import GroundPruneError


def unwrapped(model: Any) -> PreTrainedModel:
    """The transformers model inside of a PEFT model, of `torch.compile(model)` and of DistributedDataParallel.

    Raises GroundPruneError for a part of a model, and for a wrapper of another kind: its calls might go past ours.
    """
    inner: Any = model
    while not isinstance(inner, PreTrainedModel):
        if isinstance(inner, OptimizedModule):
            inner = inner._orig_mod
        elif isinstance(inner, nn.parallel.DistributedDataParallel):
            inner = inner.module
        elif callable(getattr(inner, "get_base_model", None)):  # PEFT, without importing it
            inner = inner.get_base_model()
        else:
            raise GroundPruneError(
                "give the whole model, the one that has `generate`, bare or in PEFT, torch.compile or "
                f"DistributedDataParallel; got a {type(model).__name__}"
            )
    if not hasattr(inner, "prepare_inputs_for_generation"):
        raise GroundPruneError(f"give the whole model, the one that has `generate`; got a {type(inner).__name__}")
    return inner
