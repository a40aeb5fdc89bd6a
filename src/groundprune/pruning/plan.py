"""What is to be pruned, and how: checked before any work is done."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from torch._dynamo import OptimizedModule
from transformers import PreTrainedModel

from groundprune.errors import GroundPruneError, Unservable
from groundprune.families.base import Family, family_of
from groundprune.probes.clip_text import find_text_tower
from groundprune.pruners.base import Pruner, Stage
from groundprune.pruners.registry import refusal
from groundprune.signals import CLIP_PATCHES, CLIP_TEXT, TextEmbedder
from groundprune.tokens.positions import Policy, parse_policy

Text = Sequence[str] | None
TextTower = str | Path | TextEmbedder | None
WINDOWS = ("positions", "tokens")


@dataclass(frozen=True)
class Plan:
    """What is to be pruned, and how. before: the stage before the LLM, if any; inside: those between its layers."""

    model: Any
    family: Family
    pruner: Pruner
    before: Stage | None
    inside: list[Stage]
    policy: Policy
    text: Text
    embedder: TextEmbedder | None

    @staticmethod
    def of(model: Any, pruner: Pruner, positions: str | Policy, text: Text, text_tower: TextTower) -> Plan:
        """Raises Unservable or GroundPruneError, before any work, for what cannot be done."""
        if not isinstance(pruner, Pruner):
            raise GroundPruneError(f"pruner must be a Pruner, such as gp.ClsVisual(keep=0.5); got {pruner!r}")
        model = unwrapped(model)
        family, pruner = family_of(model.config), pruner.for_model(model.config)
        stages = pruner.stages(model.config.get_text_config().num_hidden_layers)
        before = [stage for stage in stages if stage.layer is None]
        if len(before) > 1 or stages[: len(before)] != before:
            raise GroundPruneError(f"{pruner.label}: one stage before the LLM at most, and first")
        policy = parse_policy(positions, pruner.official(model.config))
        embedder = _check_needs(family, model, pruner, text, text_tower)
        inside = stages[len(before) :]
        return Plan(model, family, pruner, before[0] if before else None, inside, policy, text, embedder)


def _check_needs(
    family: Family, model: Any, pruner: Pruner, text: Text, text_tower: TextTower
) -> TextEmbedder | None:
    check = functools.partial(family.check, model.config)
    for need in sorted(pruner.needs, key=str):
        try:
            check(need)
        except Unservable as error:
            raise refusal(pruner, error, check) from error
    if CLIP_TEXT in pruner.needs and text is None:
        raise Unservable(f"{pruner.label} reads the prompt's text: pass text=[...], one entry per prompt row")
    if not pruner.needs & {CLIP_TEXT, CLIP_PATCHES}:
        return None
    embedder = find_text_tower(text_tower, model)
    if embedder is None:
        raise Unservable(
            f"{pruner.label} needs a CLIP text tower and this checkpoint has none: pass text_tower=folder or Hub id "
            "(on the command line --text-tower) of the CLIP model whose vision tower this is"
        )
    return embedder


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
