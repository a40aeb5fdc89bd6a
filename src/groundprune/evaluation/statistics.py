"""How sure a measured share is: Wilson intervals, and the paired bootstrap for two runs on the same samples."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

_Z = 1.959963984540054  # 97.5% quantile of the normal distribution: intervals hold 95%


def wilson(correct: int, n: int) -> tuple[float, float]:
    """The 95% Wilson score interval of a share.

    Args:
        correct: of n.
        n: how many there were.

    Returns:
        Lower and upper end, within 0..1; (0, 1) for n = 0: nothing is known.
    """
    if n == 0:
        return 0.0, 1.0
    share = correct / n
    middle = share + _Z**2 / (2 * n)
    reach = _Z * math.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2))
    scale = 1 + _Z**2 / n
    return max(0.0, (middle - reach) / scale), min(1.0, (middle + reach) / scale)


def paired_difference(
    a: Sequence[bool], b: Sequence[bool], seed: int = 0, resamples: int = 10_000
) -> tuple[float, float, float]:
    """How much more often a is right than b, with the 95% percentile bootstrap interval.

    A resample of pairs is fully described by how many of its pairs a won, lost and tied, and these counts are
    multinomial: so they are drawn directly. A function of (a, b, seed) alone.

    Args:
        a: whether each sample was answered right.
        b: likewise, a[i] and b[i] being of the same sample.
        seed: of the bootstrap.
        resamples: of the bootstrap.

    Returns:
        The mean of a - b, and the ends of its interval; (0, -1, 1) for no samples.

    Raises:
        ValueError: a and b differ in length.
    """
    n = len(a)
    if n != len(b):
        raise ValueError(f"pairs are needed: {n} and {len(b)} given")
    if n == 0:
        return 0.0, -1.0, 1.0
    won = sum(x and not y for x, y in zip(a, b, strict=True))
    lost = sum(y and not x for x, y in zip(a, b, strict=True))
    draws = np.random.default_rng(seed).multinomial(n, [won / n, lost / n, (n - won - lost) / n], resamples)
    low, high = np.quantile((draws[:, 0] - draws[:, 1]) / n, [0.025, 0.975])
    return (won - lost) / n, float(low), float(high)
