"""The transformers model inside of what wraps it."""

from __future__ import annotations

import sys
from typing import Any

from torch import nn
from torch._dynamo import OptimizedModule
from transformers import PreTrainedModel

from groundprune.errors import GroundPruneError, Unservable


def unwrapped(model: Any) -> PreTrainedModel:
    """The transformers model inside of PEFT, `torch.compile`, DistributedDataParallel and DeepSpeed's engine.

    Raises GroundPruneError for a part of a model, and for a wrapper of another kind: its calls might go past ours.
    """
    inner: Any = model
    while not isinstance(inner, PreTrainedModel):
        if isinstance(inner, OptimizedModule):
            inner = inner._orig_mod
        elif isinstance(inner, (nn.parallel.DistributedDataParallel, *_engines())):
            inner = inner.module
        elif callable(getattr(inner, "get_base_model", None)):  # PEFT, without importing it
            inner = inner.get_base_model()
        else:
            raise GroundPruneError(
                "give the whole model, the one that has `generate`, bare, sharded by fully_shard, or in PEFT, "
                f"torch.compile, DistributedDataParallel or DeepSpeed; got a {type(model).__name__}"
            )
    if not hasattr(inner, "prepare_inputs_for_generation"):
        raise GroundPruneError(f"give the whole model, the one that has `generate`; got a {type(inner).__name__}")
    return inner


def _engines() -> tuple[type, ...]:
    """DeepSpeed's, without importing it: no model is inside of one where nobody did."""
    deepspeed: Any = sys.modules.get("deepspeed")
    return () if deepspeed is None else (deepspeed.DeepSpeedEngine,)


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
