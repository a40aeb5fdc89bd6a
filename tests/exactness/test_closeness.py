"""The measure that exactness is judged by, and the tests' two uses of it."""

import math

import pytest
import torch

from groundprune.exactness.verify import relative_difference
from support.closeness import assert_apart, assert_near

ONES = torch.ones(3)


@pytest.mark.parametrize(
    ("a", "b", "wanted"),
    [
        (ONES, ONES, 0),
        (ONES * 3, ONES * 2, 0.5),
        (torch.tensor([4.0, 0.001]), torch.tensor([4.0, 0.0]), 0.00025),  # of the largest, not of the element
        (ONES, ONES[:2], math.inf),
        (ONES, ONES[:1], math.inf),  # which subtraction would broadcast
        (ONES * math.nan, ONES, math.inf),
        (ONES, ONES * math.nan, math.inf),
        (ONES * math.inf, ONES, math.inf),
        (ONES, ONES * math.inf, math.inf),
        (ONES, ONES * 0, math.inf),
        (ONES * 0, ONES * 0, 0),
        (ONES[:0], ONES[:0], 0),
    ],
)
def test_the_relative_difference_is_that_of_the_largest_value(a, b, wanted):
    assert relative_difference([a], [b]) == pytest.approx(wanted)
    assert relative_difference([a, ONES], [b, ONES]) == pytest.approx(wanted)
    assert relative_difference([ONES, a], [ONES, b]) == pytest.approx(wanted)


def test_near_follows_the_scale():
    for scale in (1e-3, 1, 1e3):
        expected = torch.tensor([15.0, 0.01]) * scale
        assert_near(expected + 1.4e-5 * scale, expected)
        with pytest.raises(AssertionError, match="of the largest value apart, where 1e-05 is allowed"):
            assert_near(expected + 2e-4 * scale, expected)


@pytest.mark.parametrize("broken", [ONES * math.nan, ONES[:1], ONES * math.inf])
def test_what_is_no_number_is_neither_near_nor_a_control(broken):
    for check in (assert_near, assert_apart):
        with pytest.raises(AssertionError):
            check(broken, ONES, 1e-2)
