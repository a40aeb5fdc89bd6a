"""A factorial read on the logit scale: what policy, selection and their interaction explain of right answers.

The cells of a design are answered by the same samples, so the rows of a sample depend on each other: intervals come
from resamples of whole samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from groundprune.studies.parts.logistic import Estimate, chance_of, effects, estimates, fit, weights


@dataclass(frozen=True)
class Factors:
    """What a design of P policies and S selections says.

    policy, selection, interaction: shares of the deviance between the cells, of sum 1; policy first, selection after
    it. deviances: of those three, of all samples; degrees: of freedom. size: root mean square of the interaction, in
    log-odds. pull: by selection, how much more log-odds the first policy has over the second there than on average
    over the selections. contrast: of the first selections (those that look) less that of the rest (blind ones).
    chance: the p-value of "no interaction", the larger of the bootstrap's and the likelihood ratio's: the first is
    too small where a cell holds no right answer, for none of its resamples does; the second takes rows for
    independent, and is too large where right answers of a sample go together.
    """

    policy: Estimate
    selection: Estimate
    interaction: Estimate
    deviances: tuple[float, float, float]
    degrees: tuple[int, int, int]
    size: Estimate
    pull: list[Estimate]
    contrast: Estimate
    chance: float


def factors(right: np.ndarray, looking: int, trials: np.ndarray | None = None, seed: int = 0) -> Factors:
    """Fit the grand mean, the policies, the additive model and the one with the interaction, in every resample.

    Args:
        right: Float[n, P, S], right answers of each sample in each cell.
        looking: how many of the selections, the first ones, look at the image; see `Factors.contrast`.
        trials: Float[S], answers per sample in a selection's cells (several seeds); None = 1 each.
        seed: of the bootstrap.

    Returns:
        Factors.
    """
    n, policies, selections = right.shape
    each = np.ones(selections) if trials is None else trials
    x, ends = _design(policies, selections)
    of = np.tile(each, policies) * n
    starts: list[np.ndarray | None] = [None] * len(ends)
    rows = []
    for counts in weights(n, seed=seed) @ right.reshape(n, -1):
        fits = [fit(x[:, :end], counts, of, start) for end, start in zip(ends, starts, strict=True)]
        starts = [found.coefficients for found in fits] if not rows else starts
        parts = -np.diff([found.deviance for found in fits])
        inner = fits[-1].coefficients[ends[-2] :]
        gaps = (x[:, ends[-2] :] @ inner).reshape(policies, selections)
        pull = gaps[0] - gaps[1]
        size, contrast = np.sqrt((gaps**2).mean()), pull[:looking].mean() - pull[looking:].mean()
        rows.append([*parts / max(parts.sum(), 1e-12), size, contrast, *pull, *parts, *inner])
    values = np.array(rows)
    policy, selection, interaction, size, contrast, *pull = estimates(values[:, : 5 + selections], n)
    a, b, c = map(float, values[0, 5 + selections : 8 + selections])
    degrees = policies - 1, selections - 1, (policies - 1) * (selections - 1)
    ratio = float(torch.special.gammaincc(*torch.tensor([degrees[2] / 2, max(c, 0.0) / 2]).double()))
    chance = max(ratio, chance_of(values[:, 8 + selections :]))
    return Factors(policy, selection, interaction, (a, b, c), degrees, size, pull, contrast, chance)


@dataclass(frozen=True)
class Split:
    """Of what one selection loses under moved ids, in shares of 0..1 of right answers: parts of sum `loss`.

    positions: Shapley value of the ids; coverage: of the target's tokens that went; rest: what is lost with ids
    preserved and the target whole. meeting: how much more the ids cost where the target is whole.
    """

    loss: Estimate
    positions: Estimate
    coverage: Estimate
    rest: Estimate
    lead: Estimate
    meeting: Estimate
    share_of_positions: Estimate
    share_of_coverage: Estimate


def split(
    unpruned: Sequence[float], kept: Sequence[float], moved: Sequence[float], whole: Sequence[float],
    whole_moved: Sequence[float], seed: int = 0,
) -> Split:  # fmt: skip
    """Split the loss from `unpruned` to `moved` over the ids and the target's coverage, each order weighing half.

    Args:
        unpruned: whether each sample was right, as in the others.
        kept: of the selection, ids preserved.
        moved: of the selection, ids moved.
        whole: of one that keeps all of the target, ids preserved.
        whole_moved: of that one, ids moved.
        seed: of the bootstrap.

    Returns:
        Split.
    """
    every = np.array([unpruned, kept, moved, whole, whole_moved], dtype=float).T
    n = len(every)
    u, k, m, w, wm = (weights(n, seed=seed) @ every / n).T
    positions, coverage = ((k - m) + (w - wm)) / 2, ((w - k) + (wm - m)) / 2
    loss = u - m
    safe = np.where(np.abs(loss) < 1e-12, np.nan, loss)
    parts = [loss, positions, coverage, u - w, positions - coverage, (w - wm) - (k - m)]
    return Split(*estimates(np.stack([*parts, positions / safe, coverage / safe], 1), n))


def _design(policies: int, selections: int) -> tuple[np.ndarray, tuple[int, int, int, int]]:
    """Float[P * S, P * S] in sum-to-zero contrasts, and how many columns each of the four nested models has."""
    of_policy = np.repeat(effects(policies), selections, axis=0)
    of_selection = np.tile(effects(selections), (policies, 1))
    both = (of_policy[:, :, None] * of_selection[:, None, :]).reshape(policies * selections, -1)
    x = np.concatenate([np.ones((policies * selections, 1)), of_policy, of_selection, both], axis=1)
    ends = (1, policies, policies + selections - 1, policies * selections)
    return x, ends
