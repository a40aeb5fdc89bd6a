"""The cells of study 4: which settings they are, the answers in them, and what is computed of those."""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass

import numpy as np

from groundprune.evaluation.specs import Setting
from groundprune.studies.parts.covering import kept_share
from groundprune.studies.parts.crossing import Factors, Split, factors, split
from groundprune.studies.parts.logistic import Estimate, Fit, estimates, fit, grouped, weights
from groundprune.studies.study import Run

UNPRUNED = Setting.of()
POLICIES = ("preserved", "reassigned", "stretched", "reassigned-image")
# The first ones look at the image, the rest are blind to it; several seeds of one selection are answered apart.
LOOKING, BLIND = ("cls-visual", "text-visual", "coverage"), ("random", "spatial")
SELECTIONS = (*LOOKING, *BLIND)
SEEDS = ("random", "random:seed=1")
WHOLE = "target-kept"  # the intervention: no token of the target goes
SCORED = ("cls-visual", "text-visual", "random")  # selections that can be told to keep it
KEEPS = ("0.5", "0.25")
STEP = "tokens"  # of `Study.measure`
FEW = 20
LINES = 100  # resamples of a regression over single answers


def texts(selection: str, quick: bool = False) -> tuple[str, ...]:
    """The pruners of a selection, in text."""
    return SEEDS if selection == "random" and not quick else (selection,)


def whole(keep: str, policy: str, selection: str = "random") -> Setting:
    """The cell in which the target is kept to its last token: by the selection itself, or at random where it cannot
    be told to."""
    pruner = selection if selection in SCORED else "random"
    return Setting(pruner, keep, positions=policy, intervention=WHOLE)


@dataclass(frozen=True, eq=False)
class Cells:
    """The answers of one run at one keep: right: Float[n, P, S]; trials: Float[S]; samples: their ids.

    policies, selections: those that were answered, which are fewer where the model could not run some.
    """

    run: Run
    keep: str
    samples: list[str]
    policies: list[str]
    selections: list[str]
    right: np.ndarray
    trials: np.ndarray

    @staticmethod
    def of(run: Run, keep: str) -> Cells:
        """Of the samples that were answered in all cells."""
        policies = [p for p in POLICIES if run.answers(Setting.of("random", keep, positions=p), "rec")]
        cells = {
            s: [[_right(run, Setting.of(text, keep, positions=p)) for p in policies] for text in texts(s)]
            for s in SELECTIONS
        }
        found = {s: [seed for seed in seeds if all(seed)] for s, seeds in cells.items()}
        found = {s: seeds for s, seeds in found.items() if seeds and policies}
        every = [set(cell) for seeds in found.values() for seed in seeds for cell in seed]
        samples = sorted(set.intersection(*every)) if every else []
        shape = len(samples), len(policies), len(found)
        right = np.zeros(shape)
        for i, p, s in np.ndindex(shape):
            right[i, p, s] = sum(seed[p][samples[i]] for seed in list(found.values())[s])
        trials = np.array([len(seeds) for seeds in found.values()], dtype=float)
        return Cells(run, keep, samples, policies, list(found), right, trials)

    @property
    def enough(self) -> bool:
        """Whether there is a design to fit."""
        named = self.policies[:2] == list(POLICIES[:2]) and bool(set(self.selections) & set(LOOKING))
        return named and bool(set(self.selections) & set(BLIND)) and len(self.samples) > 1

    @functools.cached_property
    def factors(self) -> Factors | None:
        """None where cells are missing."""
        if not self.enough:
            return None
        return factors(self.right, len(set(self.selections) & set(LOOKING)), self.trials)

    def split(self, selection: str) -> Split | None:
        """Of the loss of one selection with reassigned ids."""
        settings = [UNPRUNED, *(whole(self.keep, p, selection) for p in POLICIES[:2])]
        of = [_right(self.run, setting) for setting in settings]
        samples = [s for s in self.samples if all(s in right for right in of)]
        if not self.enough or selection not in self.selections or len(samples) < 2:
            return None
        at, rows = self.selections.index(selection), [self.samples.index(s) for s in samples]
        kept, moved = (self.right[rows, p, at] / self.trials[at] for p in (0, 1))
        unpruned, covered, covered_moved = ([right[s] for s in samples] for right in of)
        return split(unpruned, list(kept), list(moved), covered, covered_moved)

    def mean_gain(self, policy: str) -> Estimate:
        """How much more often `policy` is right than preserved, mean over the selections; shares."""
        if policy not in self.policies or len(self.samples) < 2:
            return Estimate(0, 0.0, -1.0, 1.0)
        shares = self.right / self.trials
        gain = (shares[:, self.policies.index(policy)] - shares[:, 0]).mean(1)
        return estimates((weights(len(gain)) @ gain / len(gain))[:, None], len(gain))[0]


@dataclass(frozen=True)
class Covered:
    """What the share of the target's tokens that a selection keeps explains, over all cells but the whole ones.

    deviances: explained by policy; by that share, after it; by which selection it was, after both. slopes: by policy,
    log-odds from none of the target to all of it, of policies with at least `FEW` right answers and as many wrong
    ones.
    """

    deviances: tuple[float, float, float]
    slopes: dict[str, Estimate]


def coverage(cells: Cells) -> Covered | None:
    """Regress single answers on policy, share kept of the target and selection; None where shares are unknown."""
    seen = cells.run.measured.get(STEP) or {}
    number = {sample: i for i, sample in enumerate(s for s in cells.samples if s in seen)}
    data = [
        (p, s, kept_share(row, seen[row["sample"]], "target"), row["correct"], number[row["sample"]])
        for p, policy in enumerate(cells.policies)
        for s, selection in enumerate(cells.selections)
        for text in texts(selection)
        for row in cells.run.answers(Setting.of(text, cells.keep, positions=policy), "rec")
        if row["sample"] in number
    ]
    data = [entry for entry in data if entry[2] is not None]
    if not cells.enough or not data:
        return None
    table = np.array(data, dtype=float)
    policy, share, right, sample = table[:, 0].astype(int), table[:, 2], table[:, 3], table[:, 4].astype(int)
    one, of_policy = np.ones((len(table), 1)), np.eye(len(cells.policies))[policy][:, 1:]
    of_selection = np.eye(len(cells.selections))[table[:, 1].astype(int)][:, 1:]
    slopes = np.eye(len(cells.policies))[policy] * share[:, None]
    nested = [one, of_policy, slopes, of_selection]
    trials = np.ones(len(table))
    deviances = [fit(np.concatenate(nested[: k + 1], 1), right, trials).deviance for k in range(len(nested))]
    first = 1 + of_policy.shape[1]

    def steep(found: Fit) -> list[float]:
        return list(found.coefficients[first:])

    x = np.concatenate(nested[:3], 1)
    values = grouped(x, right, sample, weights(len(number), LINES), steep)
    a, b, c = (float(before - after) for before, after in itertools.pairwise(deviances))
    counts = [(right[policy == p].sum(), (1 - right[policy == p]).sum()) for p in range(len(cells.policies))]
    found = zip(cells.policies, estimates(values, len(number)), counts, strict=True)
    return Covered((a, b, c), {name: slope for name, slope, count in found if min(count) >= FEW})


def _right(run: Run, setting: Setting) -> dict[str, float]:
    return {row["sample"]: float(row["correct"]) for row in run.answers(setting, "rec")}
