"""What the study says of rows whose chances were planted."""

import numpy as np
import pytest

from groundprune.evaluation.specs import Setting
from groundprune.studies.cross import Cross
from groundprune.studies.parts.covering import kept_share
from groundprune.studies.parts.cross_cells import (
    KEEPS,
    POLICIES,
    SCORED,
    SELECTIONS,
    STEP,
    UNPRUNED,
    Cells,
    coverage,
    texts,
    whole,
)
from groundprune.studies.study import FAILS, HOLDS, UNTOLD, Run
from support.study_rows import made_rows, made_run

N = 400


def drawn(chance, seed):
    """So many right answers, each time of other samples."""
    right = np.arange(N) < round(chance * N)
    return [bool(x) for x in np.random.default_rng(seed).permutation(right)]


def run(chance_of, of_whole, unpruned=1.0, keep=KEEPS[0], leave_out=()):
    rows = made_rows(UNPRUNED, "rec", drawn(unpruned, 0))
    for p, policy in enumerate(POLICIES):
        for s, selection in enumerate(SELECTIONS):
            for i, text in enumerate(texts(selection)):
                if selection not in leave_out and policy not in leave_out:
                    right = drawn(chance_of(p, s), 100 * p + 10 * s + i)
                    rows += made_rows(Setting.of(text, keep, positions=policy), "rec", right)
        for s, selection in enumerate(SCORED):
            rows += made_rows(whole(keep, policy, selection), "rec", drawn(of_whole[p], 1000 + 10 * p + s))
    return made_run(rows)


def logistic(logit):
    return 1 / (1 + np.exp(-logit))


def verdicts(*runs):
    """Of the claims on ids, coverage, the interaction and stretched ids."""
    found = [claim.verdict for claim in Cross().findings(runs).claims]
    return [found[0], found[1], found[3], found[4]]


def test_a_loss_that_is_all_ids():
    made = run(lambda p, s: 1.0 if p == 0 else 0.1, of_whole=[1, 0.1, 0.1, 0.1])
    found = verdicts(made)
    assert found[0] == found[3] == HOLDS
    assert found[1] != HOLDS
    split = Cells.of(made, "0.5").split("cls-visual")
    assert split is not None
    assert split.share_of_positions.value == pytest.approx(1)


def test_a_loss_that_is_all_coverage():
    made = run(lambda p, s: 0.3, of_whole=[1, 1, 1, 1])
    found = verdicts(made)
    assert found[:2] == [FAILS, HOLDS]
    assert found[3] != HOLDS


def test_a_loss_that_a_whole_target_leaves_is_the_rest_s_and_not_coverage():
    """Of a selection's own: random pruning with a whole target, which loses nothing, is not what it is held to."""
    made = run(lambda p, s: 0.6 if p == 0 else 0.1, of_whole=[1, 0.1, 0.1, 0.1])
    own_whole = whole("0.5", "preserved", "cls-visual")
    rows = [dict(row) for row in made.rows if row["setting"] != own_whole.id]
    rows += made_rows(own_whole, "rec", drawn(0.6, 0))
    cells = Cells.of(made_run(rows), "0.5")
    own, other = cells.split("cls-visual"), cells.split("random")
    assert own is not None
    assert other is not None
    assert (own.rest.value, own.coverage.value) == (pytest.approx(0.4), pytest.approx(0))
    assert (other.rest.value, other.coverage.value) == (pytest.approx(0), pytest.approx(0.2))


def test_additive_chances_do_not_interact_and_planted_ones_do():
    policy, selection = [1.5, -1.5, 0.0, 0.0], [0.6, 0.4, 0.0, -0.4, -0.6]
    made = run(lambda p, s: logistic(policy[p] + selection[s]), of_whole=[1, 0.2, 0.2, 0.2])
    factors = Cells.of(made, "0.5").factors
    assert factors is not None
    assert factors.contrast.low < 0 < factors.contrast.high
    crossed = run(
        lambda p, s: logistic(policy[p] + selection[s] * (2.5 if p == 0 else -1)), of_whole=[1, 0.2, 0.2, 0.2]
    )
    assert verdicts(crossed)[2] == HOLDS
    assert verdicts(crossed, made)[2] == UNTOLD  # of one run alone


def test_what_was_skipped_is_left_out_or_not_told():
    chances = lambda p, s: 0.9 if p == 0 else 0.1  # noqa: E731
    without = run(chances, [1, 0.1, 0.1, 0.1], leave_out=("text-visual", "stretched"))
    assert Cells.of(without, "0.5").right.shape == (N, 3, 4)
    found = verdicts(without)
    assert (found[0], found[3]) == (HOLDS, UNTOLD)
    assert set(verdicts(made_run([]))) == {UNTOLD}
    half = run(chances, [1, 0.1, 0.1, 0.1], leave_out=("reassigned",))
    assert set(verdicts(half)[:3]) == {UNTOLD}
    assert "cannot be told here" in Cross().findings([made_run([])]).answer
    Cross().draw([made_run([]), without])


def test_the_share_of_the_target_that_is_kept_explains_what_it_was_planted_to():
    """The selections keep more or less of the target, and answers are right by that alone, under preserved ids."""
    rng, rows, seen = np.random.default_rng(0), made_rows(UNPRUNED, "rec", [True] * N), {}
    target = np.zeros((10, 10), dtype=bool)
    target[:4, :5] = True
    about = {"grid": [10, 10], "mass": {}, "target": np.packbits(target).tobytes().hex()}
    for i in range(150):
        seen[f"rec-{i:04d}"] = about
    for p, policy in enumerate(POLICIES[:2]):
        for s, selection in enumerate(SELECTIONS):
            for text in texts(selection):
                for i in range(150):
                    mask = rng.random(100) < 0.2 + 0.15 * s
                    where = {"grids": [[10, 10]], "kept_cells": np.packbits(mask).tobytes().hex()}
                    logit = 8 * (kept_share(where, about, "target") or 0) - 4 if p == 0 else -1.0
                    right = [bool(rng.random() < logistic(logit))]
                    row = made_rows(Setting.of(text, "0.5", positions=policy), "rec", right)
                    rows += [{**row[0], **where, "sample": f"rec-{i:04d}"}]
    found = coverage(Cells.of(Run("made", rows, {STEP: seen}), "0.5"))
    assert found is not None
    assert found.slopes["preserved"].value == pytest.approx(8, abs=1.5)
    assert found.slopes["reassigned"].low < 0 < found.slopes["reassigned"].high
    assert found.deviances[1] > 20 * max(found.deviances[2], 1)
