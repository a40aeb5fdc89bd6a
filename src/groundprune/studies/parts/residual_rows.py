"""What study 6 knows of every answer, and what its settings are called."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from groundprune.evaluation.specs import Setting
from groundprune.studies.parts.covering import cells, density, kept_share
from groundprune.studies.parts.logistic import Estimate, estimates, fit, grouped, weights
from groundprune.studies.study import Run

UNPRUNED = Setting.of()
PRUNERS = ("cls-visual", "text-visual", "random")
QUICK_PRUNERS = ("cls-visual", "random")
KEEPS = ("0.5", "0.25")
STEP = "tokens"  # of `Study.measure`
# What an answer is regressed on; shares are of tokens, 0..1.
SHARES = {
    "target": "target's tokens kept", "border": "its border kept", "centre": "its centre kept",
    "distractors": "distractors kept", "density": "score per token of the target", "size": "target's size",
}  # fmt: skip
JOINT = ("target", "distractors", "density", "size")  # border and centre add up to the target
RESAMPLES = 300
EDGES = (0.0, 0.25, 0.5, 0.75, 1.0, 2.0)  # shares of the target, of `Answers.bins`
BINS = ("< 25", "25 to\n50", "50 to\n75", "75 to\n100", "all")  # percent


def plain(pruner: str, keep: str) -> Setting:
    """Pruned with ids preserved, and nothing else."""
    return Setting.of(pruner, keep)


def changed(pruner: str, keep: str, intervention: str) -> Setting:
    """The same, with which tokens stay decided by an intervention."""
    return Setting(pruner, keep, intervention=intervention)


@dataclass(frozen=True)
class Explained:
    """slope: log-odds of being right per standard deviation. iou: correlation with IoU.

    explained: share of the deviance that the whole fit explains.
    """

    slope: Estimate
    explained: float
    iou: float


@dataclass(frozen=True, eq=False)
class Answers:
    """One setting's answers with what is known of each.

    right, iou: Float[n]; x: by name of SHARES, Float[n], NaN where a sample has no such tokens (a target without a
    centre) or no such score.
    """

    right: np.ndarray
    iou: np.ndarray
    x: dict[str, np.ndarray]

    @staticmethod
    def of(run: Run, pruner: str, keep: str) -> Answers:
        """Of the samples whose tokens are known."""
        seen = run.measured.get(STEP) or {}
        rows = [row for row in run.answers(plain(pruner, keep), "rec") if row["sample"] in seen]
        found: dict[str, list[float | None]] = {name: [] for name in SHARES}
        for row in rows:
            about = seen[row["sample"]]
            for region in ("target", "border", "centre", "distractors"):
                found[region].append(kept_share(row, about, region))
            found["density"].append(density(about, pruner))
            found["size"].append(float(cells(about, "target").sum()))
        return Answers(
            np.array([row["correct"] for row in rows], dtype=float),
            np.array([row["iou"] for row in rows], dtype=float),
            {name: np.array([np.nan if v is None else v for v in values]) for name, values in found.items()},
        )

    def alone(self, name: str) -> Explained:
        """Being right regressed on one of them, in standard deviations."""
        return self._regress([name])[name]

    def joint(self) -> dict[str, Explained]:
        """On several together; those that do not vary or are not known are left out."""
        return self._regress(JOINT)

    def _regress(self, names: Sequence[str]) -> dict[str, Explained]:
        nothing = {name: Explained(Estimate(0, 0.0, 0.0, 0.0), 0.0, 0.0) for name in names}
        known = [n for n in names if np.isfinite(self.x[n]).sum() > 1 and np.nanstd(self.x[n]) > 1e-9]
        if not known:
            return nothing
        fine = np.all([np.isfinite(self.x[name]) for name in known], axis=0)
        right, columns = self.right[fine], np.stack([self.x[name][fine] for name in known], 1)
        n, spread = len(right), columns.std(0)
        if n < 2 or not spread.all() or right.min() == right.max():
            return nothing
        x = np.concatenate([np.ones((n, 1)), (columns - columns.mean(0)) / spread], 1)
        values = grouped(x, right, np.arange(n), weights(n, RESAMPLES), lambda f: list(f.coefficients[1:]))
        one = np.ones(n)
        whole, empty = fit(x, right, one).deviance, fit(x[:, :1], right, one).deviance
        iou = [float(np.corrcoef(column, self.iou[fine])[0, 1]) for column in columns.T]
        found = zip(known, estimates(values, n), iou, strict=True)
        return nothing | {name: Explained(slope, 1 - whole / empty, r) for name, slope, r in found}

    def bins(self) -> list[tuple[int, int, float, float]]:
        """By share of the target's tokens that is kept: which of BINS, answers, share right, mean IoU."""
        share, found = self.x["target"], []
        for at, (low, high) in enumerate(itertools.pairwise(EDGES)):
            mine = (share >= low) & (share < high)
            if mine.any():
                found.append((at, int(mine.sum()), float(self.right[mine].mean()), float(self.iou[mine].mean())))
        return found
