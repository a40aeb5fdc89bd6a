"""What is to be pruned, and how: checked before any work is done."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from groundprune.errors import GroundPruneError, Unservable
from groundprune.families.base import Family, family_of
from groundprune.pruners.base import Pruner, Stage
from groundprune.pruners.registry import refusal
from groundprune.pruning.embedder import embedder_for
from groundprune.pruning.wrapped import unwrapped
from groundprune.signals import CLIP_PATCHES, CLIP_TEXT, Need, TextEmbedder
from groundprune.tokens.compaction import PRESERVED, Policy
from groundprune.tokens.positions import parse_policy

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
        if not (isinstance(model, PreTrainedModel) and hasattr(model, "prepare_inputs_for_generation")):
            model = unwrapped(model)
        family, pruner = family_of(model.config), pruner.for_model(model.config)
        stages = pruner.stages(model.config.get_text_config().num_hidden_layers)
        before = [stage for stage in stages if stage.layer is None]
        if len(before) > 1 or stages[: len(before)] != before:
            raise GroundPruneError(f"{pruner.label}: one stage before the LLM at most, and first")
        official = pruner.official(model.config)
        policy = PRESERVED if positions == PRESERVED.name else parse_policy(positions, official)
        check = functools.partial(family.check, model.config)
        inside = stages[len(before) :]
        between = {Need("llm", kind="hidden")} if inside else set()  # whether or not it reads what is there
        for need in sorted(pruner.needs | between, key=str):
            try:
                check(need)
            except Unservable as error:
                raise refusal(pruner, error, check) from error
        reads_text = pruner.needs & {CLIP_TEXT, CLIP_PATCHES}
        embedder = embedder_for(pruner, model, text, text_tower) if reads_text else None
        return Plan(model, family, pruner, before[0] if before else None, inside, policy, text, embedder)
