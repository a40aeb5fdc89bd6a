"""Logistic regression by Newton's method, and the bootstrap over whole samples.

A small ridge (`RIDGE`, as if each coefficient but the intercept were normal around 0 with standard deviation 3) keeps
coefficients finite where a cell holds right answers alone, or none; at a hundred answers it moves no others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

RIDGE = 0.1
RESAMPLES = 600
STEPS = 60


@dataclass(frozen=True, eq=False)
class Fit:
    """coefficients: Float[k], in log-odds. deviance: -2 log likelihood, the ridge left out."""

    coefficients: np.ndarray
    deviance: float


@dataclass(frozen=True)
class Estimate:
    """A number with its 95% interval; n: samples that it is over, 0 = nothing was measured."""

    n: int
    value: float
    low: float
    high: float

    def told(self, scale: float = 1.0, digits: int = 1, sign: bool = True) -> str:
        """ "+1.2 [+0.8, +1.6]"."""
        if not self.n:
            return "-"
        form = f"{'+' if sign else ''}.{digits}f"
        value, low, high = (format(scale * x, form) for x in (self.value, self.low, self.high))
        return f"{value} [{low}, {high}]"


def fit(x: np.ndarray, right: np.ndarray, trials: np.ndarray, start: np.ndarray | None = None) -> Fit:
    """Maximise the likelihood, less the ridge.

    Args:
        x: Float[n, k], the first column an intercept.
        right: Float[n], how many answers of each row were right; may be fractions.
        trials: Float[n], of how many; rows of 0 say nothing.
        start: Float[k], coefficients to start from.

    Returns:
        Fit.
    """
    ridge = np.full(x.shape[1], RIDGE)
    ridge[0] = 1e-6  # the grand mean is not drawn to a half
    beta = np.zeros(x.shape[1]) if start is None else start.copy()
    loss = _loss(x, right, trials, beta, ridge)
    for _ in range(STEPS):
        chance = _chance(x @ beta)
        gradient = x.T @ (right - trials * chance) - ridge * beta
        weight = trials * chance * (1 - chance)
        step = np.linalg.solve((x * weight[:, None]).T @ x + np.diag(ridge), gradient)
        new = _loss(x, right, trials, beta + step, ridge)
        while new > loss and np.abs(step).max() > 1e-9:  # the whole step may go too far
            step = step / 2
            new = _loss(x, right, trials, beta + step, ridge)
        if new > loss or gradient @ step < 1e-8:
            break
        beta, loss = beta + step, new
    return Fit(beta, 2 * _loss(x, right, trials, beta, 0 * ridge))


def weights(n: int, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """Float[resamples + 1, n]: how often a resample holds each of n samples; the first holds each once."""
    drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), resamples)
    return np.concatenate([np.ones((1, n)), drawn])


def estimates(values: np.ndarray, n: int) -> list[Estimate]:
    """Float[resamples + 1, k], the first row of all samples -> k estimates, with percentile intervals."""
    low, high = np.nanquantile(values[1:], [0.025, 0.975], axis=0)
    return [Estimate(n, *map(float, found)) for found in zip(values[0], low, high, strict=True)]


def chance_of(values: np.ndarray) -> float:
    """The p-value of "all k are 0" by the bootstrap: how often resamples lie as far from the estimate as 0 does.

    values: Float[resamples + 1, k], see `estimates`. Distances are by the covariance of the resamples.
    """
    around = values[1:] - values[0]
    precision = np.linalg.pinv(np.atleast_2d(np.cov(around.T)))
    of_resamples = np.einsum("bi,ij,bj->b", around, precision, around)
    return float((1 + (of_resamples >= values[0] @ precision @ values[0]).sum()) / (1 + len(around)))


def grouped(
    x: np.ndarray, right: np.ndarray, sample: np.ndarray, drawn: np.ndarray, what: Callable[[Fit], Sequence[float]]
) -> np.ndarray:
    """What a fit of rows gives, of all samples and of each resample of them.

    Args:
        x: Float[rows, k].
        right: Float[rows], 0 or 1.
        sample: Long[rows], which sample a row is of, below n.
        drawn: Float[resamples + 1, n], see `weights`.
        what: is read of each fit.

    Returns:
        Float[resamples + 1, m].
    """
    whole = fit(x, right, np.ones(len(x)))
    found = [list(what(whole))]
    for weight in drawn[1:, sample]:
        some = weight > 0
        found.append(list(what(fit(x[some], (weight * right)[some], weight[some], whole.coefficients))))
    return np.array(found)


def effects(levels: int) -> np.ndarray:
    """Float[levels, levels - 1]: contrasts of a factor's levels that sum to 0; the last level is minus all others."""
    return np.concatenate([np.eye(levels - 1), -np.ones((1, levels - 1))])


def _chance(logit: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(logit / 2))


def _loss(x: np.ndarray, right: np.ndarray, trials: np.ndarray, beta: np.ndarray, ridge: np.ndarray) -> float:
    logit = x @ beta
    return float((trials * np.logaddexp(0, logit) - right * logit).sum() + (ridge * beta**2).sum() / 2)
