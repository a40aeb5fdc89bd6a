"""Stock or pruned, `generate` of one batch: by pruned inputs where that is enough, inside of `gp.prune` where not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from groundprune.families import family_of
from groundprune.pruners import Pruner
from groundprune.pruning.context import Run, prune
from groundprune.pruning.inputs import PrunedInputs, prune_inputs
from groundprune.pruning.plan import TextTower
from groundprune.tokens.compaction import Policy


@dataclass(frozen=True)
class How:
    """What a batch is pruned with, see `gp.prune_inputs`."""

    pruner: Pruner
    policy: Policy
    text_tower: TextTower = None


def generate(
    model: Any, inputs: Mapping[str, Any], how: How | None, texts: Sequence[str], decoding: Mapping[str, Any]
) -> tuple[Tensor, PrunedInputs | Run | None]:
    """New tokens, Long[B, S], and what was kept of the prompts; None where `how` is, which is the stock model.

    texts: what the prompts ask, for pruners that read it. decoding: goes to the model's own `generate`.
    """
    if how is None:
        return model.generate(**inputs, **decoding)[:, inputs["input_ids"].shape[1] :], None
    pruner, rest = how.pruner, (how.policy, texts, how.text_tower)
    # Sliding windows count positions, which stock `generate` cannot: `gp.prune` can.
    if pruner.inside or any(family_of(model.config).windows(model.config)):
        with prune(model, pruner, *rest) as run:
            return model.generate(**inputs, **decoding)[:, inputs["input_ids"].shape[1] :], run
    short = prune_inputs(model, dict(inputs), pruner, *rest)
    return model.generate(**short, **decoding)[:, short["input_ids"].shape[1] :], short
