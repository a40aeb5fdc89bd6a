"""What is trained, on what, and what it is asked afterwards."""

from __future__ import annotations

from dataclasses import dataclass

from groundprune.evaluation.specs import Setting

ARMS: dict[str, str | None] = {"unpruned": None, "preserved": "preserved", "reassigned": "reassigned"}
BEFORE = "before"  # the model that every arm starts from
KEEP = "0.5"
SETTINGS = {
    "unpruned": Setting.of(),
    **{
        f"{pruner} {policy}": Setting.of(pruner, keep=KEEP, positions=policy)
        for pruner in ("random", "cls-visual")
        for policy in ("preserved", "reassigned")
    },
}


@dataclass(frozen=True)
class Plan:
    """What fixes a fine-tuning, but for its arm and seed.

    steps: of the optimizer, batch: scenes a step. turns: boxes that are asked for a scene, one after another in one
    conversation. rate: the highest, from which it falls in a line. asked: expressions of the evaluation.
    """

    steps: int = 240
    batch: int = 16
    turns: int = 4
    rate: float = 1e-3
    warmup: int = 20
    asked: int = 400
