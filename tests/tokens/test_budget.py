from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundprune.errors import GroundPruneError
from groundprune.tokens.budget import Budget, allot


@pytest.mark.parametrize("keep", [0, 1.5, -0.1, float("nan"), float("inf"), "abc", "", None, "1/0"])
def test_a_share_outside_of_0_to_1_is_refused_and_named(keep):
    with pytest.raises(GroundPruneError, match="keep"):
        Budget.parse(keep=keep)


@pytest.mark.parametrize("tokens", [0, -3, "x", "", 1.5])
def test_a_token_count_below_1_is_refused(tokens):
    with pytest.raises(GroundPruneError, match="tokens must be a whole number"):
        Budget.parse(tokens=tokens)


def test_keep_and_tokens_exclude_each_other():
    with pytest.raises(GroundPruneError, match="both"):
        Budget.parse(keep=0.5, tokens=3)


@pytest.mark.parametrize(
    ("keep", "patches", "kept"),
    # 0.1 * 576 = 57.6; 0.35 * 10 = 3.5 rounds up (the binary fraction nearest to 0.35 is below it: 3.49...)
    [(0.5, 576, 288), (0.1, 576, 58), (0.35, 10, 4), (0.001, 10, 1), (1, 7, 7), ("1/3", 9, 3), (0.5, 0, 0)],
)
def test_count_is_the_exact_share_rounded_half_up_and_at_least_1(keep, patches, kept):
    assert Budget.parse(keep=keep).count(patches) == kept


def test_tokens_count_per_image_and_never_exceed_what_is_there():
    budget = Budget.parse(tokens=192)
    assert [budget.count(576), budget.count(1152, images=2), budget.count(100)] == [192, 384, 100]


@given(st.fractions(min_value=Fraction(1, 1000), max_value=1), st.integers(1, 3000))
def test_count_is_within_half_a_token_of_the_share(share, patches):
    kept = Budget.parse(keep=share).count(patches)
    assert 1 <= kept <= patches
    assert kept == 1 or abs(kept - share * patches) <= Fraction(1, 2)


@given(st.lists(st.integers(0, 200), min_size=1, max_size=8), st.integers(0, 800))
def test_allot_spends_exactly_the_total_in_proportion(sizes, total):
    shares = allot(total, sizes)
    assert sum(shares) == min(total, sum(sizes))
    assert all(0 <= share <= size for share, size in zip(shares, sizes, strict=True))
    if sum(sizes):
        exact = [Fraction(min(total, sum(sizes)) * size, sum(sizes)) for size in sizes]
        assert all(abs(share - wanted) < 1 for share, wanted in zip(shares, exact, strict=True))
