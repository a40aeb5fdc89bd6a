"""When results of floating point are the same: by the scale of what is compared, never by an absolute bound.

Processors sum in orders of their own, and an error grows with the largest term, not with the element that it meets.
"""

import math
from typing import Any

import torch

from groundprune.exactness.verify import relative_difference


def assert_near(actual: Any, expected: Any, relative: float = 1e-5) -> None:
    """Tensors, arrays or numbers of one shape, nowhere further apart than relative * max|expected|."""
    apart = difference(actual, expected)
    assert apart <= relative, f"{apart:.2g} of the largest value apart, where {relative:.2g} is allowed"


def assert_apart(actual: Any, expected: Any, relative: float) -> None:
    """The control of `assert_near`: of one shape, finite, and somewhere further apart than that bound."""
    apart = difference(actual, expected)
    assert relative < apart < math.inf, f"{apart:.2g} of the largest value apart; the control needs {relative:.2g}"


def difference(actual: Any, expected: Any) -> float:
    return relative_difference([torch.as_tensor(actual)], [torch.as_tensor(expected)])
