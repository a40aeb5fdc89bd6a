"""What the studies of trained variants share: models that differ in one thing, each trained from several seeds.

A run is one training, named VARIANT-sSEED. What is told of a variant is the mean over its seeds, with Student's
interval: samples of one training do not tell how another would come out.
"""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from groundprune.data import DataSet
from groundprune.evaluation.interventions import Intervention, Truths
from groundprune.evaluation.specs import Setting
from groundprune.pruners import Pruner
from groundprune.studies.parts.contrasts import cell
from groundprune.studies.parts.effects import Effect
from groundprune.studies.parts.forcing import Forced, regions_of
from groundprune.studies.study import Run, Study
from groundprune.tokens.layout import VisualLayout
from groundprune.tokens.positions import Policy

LEARNT = 0.60  # of REC, unpruned: a training that stays below it is no evidence
MARGIN_NEED = 0.10  # a variant that needs ids less needs them less by a tenth
TYPES = ("attribute", "color", "shape", "size", "existence")
UNPRUNED, PERMUTED = Setting.of(), Setting.of(positions="permuted:0")
KEEP = "0.5"
OBJECTS = "objects-kept"
# Two-sided 95% quantiles of Student's t by degrees of freedom.
_T = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
_NAME = re.compile(r"(.+)-s(\d+)")
Measure = Callable[[Run], float | None]


def kept(policy: str) -> Setting:
    """Half of the tokens dropped at random, none of an object's while others are left; ids by the policy."""
    return replace(cell("random", KEEP, policy), intervention=OBJECTS)


def objects_kept(pruner: Pruner, policy: Policy, truths: Truths) -> tuple[Pruner, Policy]:
    """The intervention that keeps every object's tokens before all else, so that ids alone decide what is left of
    grounding. Of a question without a box nothing says where its objects are: there the pruner chooses alone."""

    def tier(layout: VisualLayout) -> Tensor:
        if truths.sample(layout).box is None:
            return torch.zeros_like(layout.is_patch).int()
        found = regions_of(truths, layout)
        return (found["target"] | found["distractors"]).int()

    return Forced.of(pruner, tier), policy


class TrainedStudy(Study):
    """Base of the studies of trained variants.

    Attributes:
        variants: by name, what each is.
    """

    trained = True
    variants: ClassVar[Mapping[str, str]]
    interventions: ClassVar[Mapping[str, Intervention]] = {OBJECTS: objects_kept}
    samples = (600, 40)  # of all types; see `asked`

    def asked(self, data: DataSet) -> DataSet:
        """Of scenes the types of questions that the variants are trained on: what a description fits, and attributes
        of it. To compare places, or to count, takes a training of hours."""
        if data.name != "scenes":
            return data
        return replace(data, samples=[sample for sample in data.samples if sample.type in TYPES])

    def settings(self, quick: bool) -> list[Setting]:
        """Unpruned; half of the tokens kept, those of objects first, and by a pruner; every id in another order."""
        policies = ("preserved", "reassigned")
        return [
            UNPRUNED, *map(kept, policies), *(cell("divprune", KEEP, p) for p in policies), PERMUTED,
        ]  # fmt: skip


class Variants:
    """The runs of a study by variant.

    Args:
        runs: named VARIANT-sSEED; those of other names are left out.
        score: what the unpruned model must reach; None = the share of right boxes.
    """

    def __init__(self, runs: Sequence[Run], score: Measure | None = None):
        self._of: dict[str, dict[int, Run]] = {}
        for run in runs:
            if found := _NAME.fullmatch(run.model):
                self._of.setdefault(found[1], {})[int(found[2])] = run
        self._score = score or (lambda run: share(run, UNPRUNED))

    def runs(self, variant: str) -> list[Run]:
        """Its trainings, by seed."""
        return [run for _, run in sorted(self._of.get(variant, {}).items())]

    def learnt(self, variant: str) -> bool:
        """Whether it was trained, and answers well enough unpruned in every training to say something."""
        scores = [self._score(run) for run in self.runs(variant)]
        return bool(scores) and all(score is not None and score >= LEARNT for score in scores)

    def mean(self, variant: str, measure: Measure) -> Effect:
        """Over the trainings of a variant."""
        return over_seeds(variant, [measure(run) for run in self.runs(variant)])

    def less(self, variant: str, other: str, measure: Measure, of_other: Measure | None = None) -> Effect:
        """How much larger the measure is of a variant than of another, paired by seed.

        of_other: the other's measure, where it is not the same. An Effect of n = 0 where one of them has not learnt
        to answer.
        """
        mine, theirs = self._of.get(variant, {}), self._of.get(other, {})
        if not (self.learnt(variant) and self.learnt(other)):
            return over_seeds(variant, [])
        second = of_other or measure
        pairs = [(measure(mine[s]), second(theirs[s])) for s in sorted(mine.keys() & theirs.keys())]
        return over_seeds(variant, [None if a is None or b is None else a - b for a, b in pairs])

    def told_of(self, variant: str, measure: Measure) -> Effect:
        """`mean`, of n = 0 where the variant has not learnt to answer."""
        return self.mean(variant, measure) if self.learnt(variant) else over_seeds(variant, [])

    def note(self, names: Sequence[str]) -> list[str]:
        """What is left out of all conclusions, and why."""
        low = [name for name in names if self.runs(name) and not self.learnt(name)]
        return [
            f"{name} stays under {100 * LEARNT:g}% unpruned in a training: nothing is concluded of it" for name in low
        ]


def over_seeds(name: str, values: Sequence[float | None]) -> Effect:
    """The mean with Student's 95% interval; n: how many trainings. Of one training the interval is everything."""
    given = [value for value in values if value is not None]
    if not given or len(given) < len(values):
        return Effect(name, 0, 0.0, -1.0, 1.0)
    mean = statistics.fmean(given)
    if len(given) == 1:
        return Effect(name, 1, mean, -math.inf, math.inf)
    reach = _T[min(len(given) - 1, max(_T))] * statistics.stdev(given) / math.sqrt(len(given))
    return Effect(name, len(given), mean, mean - reach, mean + reach)


def share(run: Run, setting: Setting, kind: str = "rec") -> float | None:
    """Right answers, 0..1; None where there are none."""
    found = run.share(setting, kind)
    return found.accuracy if found.n else None


def right(setting: Setting, kind: str = "rec") -> Measure:
    """`share` of a setting."""
    return lambda run: share(run, setting, kind)


def part_of_unpruned(setting: Setting, kind: str = "rec") -> Measure:
    """What is right under a setting, as a share of what is right unpruned."""

    def measure(run: Run) -> float | None:
        whole, mine = share(run, UNPRUNED, kind), share(run, setting, kind)
        return None if not whole or mine is None else mine / whole

    return measure


def minus(first: Measure, second: Measure, times: float = 1.0) -> Measure:
    """A measure less another, or less a multiple of it."""

    def measure(run: Run) -> float | None:
        a, b = first(run), second(run)
        return None if a is None or b is None else a - times * b

    return measure


def taken(setting: Setting) -> Measure:
    """Of what is right with preserved ids, the share that is not under a setting of the same tokens."""

    def measure(run: Run) -> float | None:
        mine, other = share(run, kept("preserved")), share(run, setting)
        return None if not mine or other is None else 1 - other / mine

    return measure


# How much a model needs preserved ids. Not in shares of its unpruned accuracy: what it loses by the tokens that are
# gone is no matter of ids.
NEED = taken(kept("reassigned"))
