"""How sure a study is: paired differences in each run, and what all runs together say of a claim.

An effect holds when the 95% intervals of all runs exclude zero on one side; a claim of no difference holds when all
lie within a margin that was written down beforehand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from groundprune.evaluation.specs import Setting
from groundprune.evaluation.statistics import paired_difference
from groundprune.evaluation.summary import Share
from groundprune.studies.study import FAILS, HOLDS, UNTOLD, Run

MARGIN = 0.01  # of accuracies: one point
MARGIN_TIME = 0.02


@dataclass(frozen=True)
class Effect:
    """A difference of shares in one run (0..1), with its 95% interval; n = 0: nothing was measured."""

    model: str
    n: int
    value: float
    low: float
    high: float

    def __str__(self) -> str:
        if not self.n:
            return "not measured"
        return f"{100 * self.value:+.1f} [{100 * self.low:+.1f}, {100 * self.high:+.1f}]"


def difference(
    run: Run, a: Setting, b: Setting, kind: str, types: Sequence[str] | None = None, seed: int = 0
) -> Effect:
    """How much more often a is right than b, on the samples that both answered; paired bootstrap over samples."""
    left = {row["sample"]: row["correct"] for row in run.answers(a, kind, types)}
    right = {row["sample"]: row["correct"] for row in run.answers(b, kind, types)}
    both = [sample for sample in left if sample in right]
    found = paired_difference([left[s] for s in both], [right[s] for s in both], seed)
    return Effect(run.model, len(both), *found)


def differences(
    runs: Sequence[Run], a: Setting, b: Setting, kind: str, types: Sequence[str] | None = None
) -> list[Effect]:
    """`difference` in each run."""
    return [difference(run, a, b, kind, types) for run in runs]


def positive(effects: Sequence[Effect], margin: float = MARGIN) -> str:
    """The verdict on "there is a gain": HOLDS where all intervals lie above zero; FAILS where all lie below it or
    within the margin; else UNTOLD."""
    if not effects or any(not e.n for e in effects):
        return UNTOLD
    if all(e.low > 0 for e in effects):
        return HOLDS
    return FAILS if all(e.high < 0 for e in effects) or within(effects, margin) else UNTOLD


def negative(effects: Sequence[Effect], margin: float = MARGIN) -> str:
    """The verdict on "there is a loss", see `positive`."""
    return positive([Effect(e.model, e.n, -e.value, -e.high, -e.low) for e in effects], margin)


def no_difference(effects: Sequence[Effect], margin: float = MARGIN) -> str:
    """The verdict on "it makes no difference": HOLDS where all intervals lie within the margin; FAILS where all
    exclude zero on one side; else UNTOLD."""
    if effects and all(e.n for e in effects) and within(effects, margin):
        return HOLDS
    return FAILS if HOLDS in (positive(effects, 0), negative(effects, 0)) else UNTOLD


def within(effects: Sequence[Effect], margin: float) -> bool:
    """Whether every interval lies within -margin..margin."""
    return all(e.n and -margin <= e.low and e.high <= margin for e in effects)


def told(effects: Sequence[Effect]) -> str:
    """In points: "+12.3 [+10.1, +14.5] (pocket), ..."."""
    return ", ".join(f"{effect} ({effect.model}, n = {effect.n})" for effect in effects)


def told_shares(shares: Sequence[Share]) -> str:
    """In percent, a run after the other: "92.4 [88.8, 95.1] / 91.0 [...]"."""
    return " / ".join(told_share(share) for share in shares)


def told_share(share: Share) -> str:
    """In percent with its 95% interval; "-" where nothing was measured."""
    if not share.n:
        return "-"
    low, high = share.interval
    return f"{100 * share.accuracy:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
