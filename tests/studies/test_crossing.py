"""What the regressions say of answers that were drawn from known chances."""

import numpy as np
import pytest

from groundprune.studies.parts.crossing import factors, split
from groundprune.studies.parts.logistic import RIDGE, chance_of, effects, estimates, fit, grouped, weights

POLICY, SELECTION = np.array([1.2, -1.2, -0.2, 0.2]), np.array([0.9, 0.5, 0.0, -0.6, -0.8])


def answers(logits, n=800, seed=1):
    """Right answers of chances known to the cell; half of them are the sample's own luck, so rows are dependent."""
    rng = np.random.default_rng(seed)
    luck = np.where(rng.random((n, *logits.shape)) < 0.5, rng.random((n, 1, 1)), rng.random((n, *logits.shape)))
    return (luck < 1 / (1 + np.exp(-logits))).astype(float)


def test_additive_chances_show_no_interaction():
    found = factors(answers(POLICY[:, None] + SELECTION), looking=3)
    assert found.contrast.low < 0 < found.contrast.high
    assert found.chance > 0.05
    assert found.interaction.value < 0.01
    assert all(pull.low < 0.1 and pull.high > -0.1 for pull in found.pull)
    expected = (POLICY**2).mean() / ((POLICY**2).mean() + (SELECTION**2).mean())
    assert found.policy.value == pytest.approx(expected, abs=0.05)
    assert found.policy.value + found.selection.value + found.interaction.value == pytest.approx(1)


def test_a_planted_interaction_is_found_in_its_size():
    planted = np.zeros((4, 5))
    planted[0, :3], planted[1, :3], planted[0, 3:], planted[1, 3:] = 0.5, -0.5, -0.75, 0.75
    found = factors(answers(POLICY[:, None] + SELECTION + planted), looking=3)
    assert found.contrast.value == pytest.approx(1 + 1.5, abs=0.3)
    assert found.contrast.low < 2.5 < found.contrast.high
    assert found.contrast.low > 1
    assert found.chance < 0.01
    assert found.size.value == pytest.approx(np.sqrt((planted**2).mean()), abs=0.08)


def test_two_seeds_of_a_selection_weigh_as_two_answers():
    logits = POLICY[:, None] + SELECTION
    right = answers(logits)
    right[:, :, 3] += answers(logits, seed=2)[:, :, 3]
    found = factors(right, looking=3, trials=np.array([1.0, 1, 1, 2, 1]))
    assert found.contrast.low < 0 < found.contrast.high
    assert found.chance > 0.05


def test_cells_without_a_right_answer_stay_finite_and_are_no_proof():
    rng = np.random.default_rng(0)
    right = np.zeros((40, 2, 2))
    right[:, 0, :] = rng.random((40, 2)) < 0.5
    right[0, 1, 1] = 1  # one answer of 40 against none
    found = factors(right, looking=1)
    assert np.isfinite(found.size.high)
    assert found.chance > 0.05


def test_the_loss_is_split_into_what_was_planted():
    n = 400
    coin = np.arange(n) % 10
    unpruned, whole, kept, moved = np.ones(n), coin < 9, coin < 6, coin < 1
    found = split(list(unpruned), list(kept), list(moved), list(whole), list(coin < 4))
    assert found.loss.value == pytest.approx(0.9)
    assert found.positions.value == pytest.approx((0.5 + 0.5) / 2)
    assert found.coverage.value == pytest.approx((0.3 + 0.3) / 2)
    assert found.rest.value == pytest.approx(0.1)
    assert found.meeting.value == pytest.approx(0)
    assert found.positions.low < 0.5 < found.positions.high
    assert found.share_of_positions.value == pytest.approx(5 / 9)


def test_a_fit_is_where_the_likelihood_is_flat():
    rng = np.random.default_rng(3)
    x = np.concatenate([np.ones((500, 1)), rng.normal(size=(500, 2))], 1)
    right = (rng.random(500) < 1 / (1 + np.exp(-x @ [0.3, 1.0, -2.0]))).astype(float)
    found = fit(x, right, np.ones(500))
    chance = 1 / (1 + np.exp(-x @ found.coefficients))
    assert x.T @ (right - chance) == pytest.approx(RIDGE * found.coefficients * [0, 1, 1], abs=1e-3)
    assert found.coefficients == pytest.approx([0.3, 1.0, -2.0], abs=0.4)
    assert found.deviance == pytest.approx(-2 * np.log(np.where(right > 0, chance, 1 - chance)).sum())


def test_dependent_rows_widen_intervals():
    rng = np.random.default_rng(4)
    one = rng.random(200) < 0.5
    sample = np.repeat(np.arange(200), 6)
    right, x = np.repeat(one, 6).astype(float), np.ones((1200, 1))
    (wide,) = estimates(grouped(x, right, sample, weights(200, 300), lambda f: list(f.coefficients)), 200)
    assert wide.high - wide.low == pytest.approx(2 * 1.96 / np.sqrt(200 / 4), rel=0.15)  # not of 1200 rows


def test_contrasts_sum_to_nothing_and_a_far_zero_is_unlikely():
    assert effects(4).sum(0) == pytest.approx(np.zeros(3))
    cloud = np.random.default_rng(0).normal(size=(1001, 2))
    cloud[0] = 0
    assert chance_of(cloud) == 1
    assert chance_of(cloud + 5) < 0.01
