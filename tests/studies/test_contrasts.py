"""Weighted sums over settings whose truth is known."""

import numpy as np
import pytest

from groundprune.evaluation.specs import Setting
from groundprune.studies.parts.contrasts import answered, between, contrast, mean, total
from groundprune.studies.parts.effects import difference
from support.study_rows import made_rows, made_run

A, B = Setting.of("random", 0.5), Setting.of("spatial", 0.5)
UNPRUNED = Setting.of()


def test_a_difference_of_two_settings_is_the_paired_one():
    right = np.random.default_rng(0).random((2, 200)) < 0.7
    run = made_run(made_rows(A, "rec", right[0].tolist()) + made_rows(B, "rec", right[1].tolist()))
    found, paired = contrast(run, {A: 1.0, B: -1.0}, "rec"), difference(run, A, B, "rec")
    assert found.value == pytest.approx(paired.value)
    assert (found.low, found.high) == pytest.approx((paired.low, paired.high), abs=0.01)


def test_settings_that_always_agree_make_no_interval_narrower():
    right = [True] * 60 + [False] * 40
    run = made_run(made_rows(A, "rec", right) + made_rows(B, "rec", right) + made_rows(UNPRUNED, "rec", [True] * 100))
    one = contrast(run, {A: 1.0, UNPRUNED: -1.0}, "rec")
    two = contrast(run, total(mean([A, B]), {UNPRUNED: -1.0}), "rec")
    assert one == two or (two.low, two.high) == pytest.approx((one.low, one.high), abs=1e-9)
    assert two.value == pytest.approx(-0.4)
    assert two.high - two.low == pytest.approx(2 * 1.96 * np.sqrt(0.24 / 100), rel=0.1)


def test_samples_that_all_agree_are_doubted_by_their_number():
    few, many = (made_run(made_rows(A, "rec", [True] * n) + made_rows(B, "rec", [True] * n)) for n in (30, 1000))
    found = contrast(few, {A: 1.0, B: -1.0}, "rec")
    assert found.high == pytest.approx(1 - 0.025 ** (1 / 30))  # 0.116: at most so many could be otherwise
    assert found.low == -found.high
    assert contrast(many, {A: 1.0, B: -1.0}, "rec").high < 0.01


def test_a_difference_of_differences_is_paired_within_and_apart_between():
    # Here the setting loses 40 of 100, there 10 of 100: a difference of -30 points.
    rows = made_rows(UNPRUNED, "vqa", [True] * 200)
    rows += made_rows(A, "vqa", [False] * 40 + [True] * 60 + [False] * 10 + [True] * 90)
    ids = sorted({row["sample"] for row in rows})
    found = between(made_run(rows), {A: 1.0, UNPRUNED: -1.0}, "vqa", ids[:100], ids[100:])
    assert found.value == pytest.approx(-0.3)
    spread = 1.96 * np.sqrt(0.24 / 100 + 0.09 / 100)
    assert (found.low, found.high) == pytest.approx((-0.3 - spread, -0.3 + spread), abs=0.015)
    assert found.n == 200


def test_what_is_missing_is_not_measured():
    run = made_run(made_rows(A, "rec", [True] * 10))
    assert contrast(run, mean([A, B]), "rec").n == 0
    assert contrast(run, {}, "rec").n == 0
    assert between(run, {A: 1.0}, "rec", [], ["rec-0001"]).n == 0
    assert answered([run, made_run(made_rows(B, "rec", [True]))], [A, B], "rec") == []


def test_an_interval_that_touches_zero_does_not_exclude_it():
    three = [Setting.of("random", 0.5), Setting.of("spatial", 0.5), Setting.of("cls-visual", 0.5)]
    rows = [row for each in three for row in made_rows(each, "rec", [True] * 3 + [False] * 47)]
    rows += made_rows(UNPRUNED, "rec", [False] * 50)
    found = contrast(made_run(rows), total(mean(three), {UNPRUNED: -1.0}), "rec")
    assert found.value > 0
    assert found.low == 0.0
