"""The transformers model inside of what wraps it."""

from __future__ import annotations

import sys
from typing import Any

from torch import nn
from torch._dynamo import OptimizedModule
from transformers import PreTrainedModel

from groundprune.errors import GroundPruneError, Unservable


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
                "give the whole model, the one that has `generate`, bare, sharded by fully_shard, or in PEFT, "
                f"torch.compile or DistributedDataParallel; got a {type(model).__name__}"
            )
    if not hasattr(inner, "prepare_inputs_for_generation"):
        raise GroundPruneError(f"give the whole model, the one that has `generate`; got a {type(inner).__name__}")
    return inner


def refuse_sharded(model: Any, what: str) -> None:
    """Raises Unservable for a model whose weights `fully_shard` gathers inside of its forward alone.

    what: `what` runs the tower before that forward.
    """
    fsdp = sys.modules.get("torch.distributed.fsdp")  # no model is sharded where it was never imported
    if fsdp is not None and isinstance(model, fsdp.FSDPModule):
        raise Unservable(
            f"{what} runs the vision tower outside of the model's forward, where fully_shard has its weights "
            "sharded: call the model inside of `with gp.prune(model, pruner)`"
        )
