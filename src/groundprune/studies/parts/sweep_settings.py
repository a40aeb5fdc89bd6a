"""What the sweep runs, and what is looked for over its whole grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from groundprune.evaluation.specs import Setting
from groundprune.studies.parts.contrasts import answered, cell, contrasts, mean, percents, total
from groundprune.studies.parts.effects import MARGIN, Effect, within
from groundprune.studies.study import FAILS, HOLDS, UNTOLD, Run

UNPRUNED = Setting.of()
SIX = ("cls-visual", "text-visual", "random", "spatial", "prumerge", "trim")
OURS = "coverage"
RIVALS = ("visionzip", "divprune", "vispruner", "fastv", OURS)
IN_ORDER = ("prumerge", "trim", "visionzip")  # their authors' code emits tokens in an order of its own
POLICIES = ("preserved", "reassigned", "reassigned-image", "stretched", "official")
KEEPS = ("0.9", "0.8", "0.7", "0.6", "0.5", "0.4", "0.3", "0.2", "0.1")
FEW_KEEPS = ("0.9", "0.7", "0.5", "0.3", "0.1")
QUICK = ("cls-visual", "random", "trim", "vispruner", OURS)
QUICK_KEEPS = ("0.9", "0.5", "0.2")
HALF = "0.5"
FEW_LEFT = ("0.3", "0.2", "0.1")  # where the paper sees preserved ids above unpruned: 75 to 90% removed


@dataclass(frozen=True)
class Above:
    """Whether a setting passes the unpruned model. best: by the mean of the runs; None where none was run.

    effects: of the best, with intervals widened by the number of settings; looked: how many there were.
    """

    best: Setting | None
    effects: list[Effect]
    looked: int
    verdict: str


def able(runs: Sequence[Run], pruners: Sequence[str], kind: str, keep: str, *policies: str) -> list[str]:
    """The pruners that every run answered under all of the policies."""
    asked = {p: [cell(p, keep, policy) for policy in policies] for p in pruners}
    return [p for p, settings in asked.items() if len(answered(runs, settings, kind)) == len(settings)]


def above_unpruned(runs: Sequence[Run], kind: str) -> Above:
    """HOLDS where some setting with few tokens left and its ids preserved lies above unpruned in every run; FAILS
    where each lies in every run below it or within the margin."""
    every = [cell(p, keep) for keep in FEW_LEFT for p in (*SIX, *RIVALS)]
    settings = answered(runs, every, kind)
    if not settings or not answered(runs, [UNPRUNED], kind):
        return Above(None, [], 0, UNTOLD)
    level = 1 - 0.05 / len(settings)
    effects = {s: contrasts(runs, total({s: 1.0}, {UNPRUNED: -1.0}), kind, level) for s in settings}
    best = max(effects, key=lambda s: min(e.low for e in effects[s]))
    if any(all(e.n and e.low > 0 for e in found) for found in effects.values()):
        verdict = HOLDS
    else:
        low = all(all(e.n and e.high < 0 for e in found) or within(found, MARGIN) for found in effects.values())
        verdict = FAILS if low else UNTOLD
    if verdict != HOLDS:
        best = max(effects, key=lambda s: sum(e.value for e in effects[s]))
    return Above(best, effects[best], len(settings), verdict)


def told_above(above: Above) -> str:
    """The setting that comes out best, and by how much."""
    if above.best is None:
        return "not measured"
    effects = ", ".join(f"{effect} ({effect.model}, n = {effect.n})" for effect in above.effects)
    return f"the best of {above.looked} settings, {above.best.label}: {effects}"


def over_keeps(runs: Sequence[Run], pruner: str, kind: str = "rec") -> list[Setting]:
    """A pruner under preserved ids, at every keep that every run answered."""
    return answered(runs, [cell(pruner, keep) for keep in KEEPS], kind)


def best_rival(runs: Sequence[Run]) -> tuple[str, list[Effect]]:
    """The pruner beside `coverage` with the most REC over the keeps that both have, ids preserved; and how much
    better `coverage` is. Pruners that lack a keep of it, below which they do not go, are left out."""
    ours = over_keeps(runs, OURS)
    keeps = [s.keep for s in ours]
    found: dict[str, list[Effect]] = {}
    for pruner in (*SIX, *RIVALS):
        theirs = over_keeps(runs, pruner)
        if pruner != OURS and keeps and [s.keep for s in theirs] == keeps:
            found[pruner] = contrasts(runs, total(mean(ours), mean(theirs, -1)), "rec")
    if not found:
        return "none", []
    best = min(found, key=lambda p: sum(e.value for e in found[p]))
    return best, found[best]


def row_of(runs: Sequence[Run], pruner: str, policy: str, kind: str) -> list[str]:
    """Accuracies in percent over `KEEPS`, a run after the other."""
    return [percents(contrasts(runs, {cell(pruner, keep, policy): 1.0}, kind)) for keep in KEEPS]
