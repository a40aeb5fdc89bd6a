"""What the study says of rows whose errors have a known cause."""

import numpy as np
import pytest

from groundprune.checkpoints.load import load
from groundprune.data import DataSet, open_data
from groundprune.evaluation.specs import Setting
from groundprune.studies.parts.covering import density, kept_share, look
from groundprune.studies.parts.residual_rows import STEP, UNPRUNED, Answers, changed, plain
from groundprune.studies.residual import BORDER, NO_CENTRE, OTHERS, OUTLINE, TARGET, Residual
from groundprune.studies.study import FAILS, HOLDS, UNTOLD, Bench, Run
from support.study_rows import made_rows

N, SIDE = 300, 10
HERE = "cls-visual", "0.5"


def packed(mask):
    return np.packbits(mask).tobytes().hex()


def regions():
    """A target of 4 x 4 tokens, and distractors as large."""
    target, centre, others = (np.zeros((SIDE, SIDE), dtype=bool) for _ in range(3))
    target[1:5, 1:5] = centre[2:4, 2:4] = others[6:, 6:] = True
    parts = {"target": target, "centre": centre, "border": target & ~centre, "distractors": others}
    return {name: packed(mask) for name, mask in parts.items()}


def rows_by(cause, needed=0.5):
    """Half of the tokens kept at random: right where the share of the region `cause` that is kept is large enough."""
    rng, seen, rows = np.random.default_rng(0), {}, []
    for i in range(N):
        mask = np.zeros(SIDE * SIDE, dtype=bool)
        mask[rng.choice(SIDE * SIDE, SIDE * SIDE // 2, replace=False)] = True
        about = {"grid": [SIDE, SIDE], "mass": {"cls-visual": float(rng.uniform(0.1, 0.3))}, **regions()}
        where = {"grids": [[SIDE, SIDE]], "kept_cells": packed(mask)}
        right = (kept_share(where, about, cause) or 0) + rng.normal(0, 0.05) > needed
        seen[f"rec-{i:04d}"] = about
        rows += [{**made_rows(plain(*HERE), "rec", [bool(right)], **where)[0], "sample": f"rec-{i:04d}"}]
    return rows, seen


def forced_rows(**shares):
    settings = {UNPRUNED: 1.0, **{changed(*HERE, name): share for name, share in shares.items()}}
    return [
        row
        for setting, share in settings.items()
        for row in made_rows(setting, "rec", [i < share * N for i in range(N)])
    ]


def verdicts(runs):
    return {claim.text: claim.verdict for claim in Residual().findings(runs).claims}


def run(cause, **shares):
    rows, seen = rows_by(cause)
    return Run("made", rows + forced_rows(**shares), {STEP: seen})


def test_a_loss_that_is_the_target_s_coverage_is_called_that():
    made = run("target", **{TARGET: 1.0, BORDER: 0.8, OTHERS: 0.4, NO_CENTRE: 0.1})
    answers = Answers.of(made, *HERE)
    assert answers.alone("target").slope.low > 1
    assert answers.joint()["target"].slope.low > 1
    distractors = answers.joint()["distractors"].slope
    assert distractors.low < 0.3 < distractors.low + 1.5  # of half of all tokens: more here is less there
    assert answers.alone("target").explained > 0.3
    found = verdicts([made, made])
    assert found["errors go with how much of the target is kept"] == HOLDS
    assert found["keeping all of the target's tokens gives points back"] == HOLDS
    assert found["with the target whole nothing is lost"] == HOLDS
    assert found["its border alone does as much"] == FAILS
    assert found["without its centre more is lost"] == HOLDS


def test_a_loss_that_is_the_distractors_is_not_the_target_s():
    made = run("distractors", **{TARGET: 0.5, OTHERS: 1.0, OUTLINE: 0.5})
    assert Answers.of(made, *HERE).joint()["distractors"].slope.low > 1
    assert Answers.of(made, *HERE).joint()["target"].slope.high < 1
    found = verdicts([made, made])
    assert found["keeping the distractors gives points back"] == HOLDS
    assert found["with the target whole nothing is lost"] == FAILS
    assert found["errors go with how much of the target is kept"] != HOLDS


def test_right_answers_by_share_are_counted_in_their_bins():
    bins = Answers.of(run("target"), *HERE).bins()
    assert sum(n for _, n, *_ in bins) == N
    assert {at: right for at, _, right, _ in bins}[1] < 0.3
    assert {at: right for at, _, right, _ in bins}[3] > 0.9


@pytest.mark.parametrize("measured", [{}, {STEP: {}}])
def test_without_answers_nothing_is_told(measured):
    runs = [Run("made", [], measured)]
    assert set(verdicts(runs).values()) == {UNTOLD}
    assert "cannot be told here" in Residual().findings(runs).answer
    Residual().draw(runs)


def test_what_is_measured_is_what_the_rows_are_asked():
    found = open_data("scenes", scenes=8, seed=5)
    data = DataSet(found.name, found.split, found.source, [s for s in found.samples if s.kind == "rec"])
    seen = look(Bench(*load("pocket"), data, True), ("cls-visual", "text-visual"))
    assert set(seen) == {sample.id for sample in data.samples}
    # What scores by the text looks where the text points: more score there than area, on the whole.
    assert sum(density(about, "text-visual") or 0 for about in seen.values()) / len(seen) > 1.2
    for about in seen.values():
        assert about["grid"] == [12, 12]
        assert set(about["mass"]) == {"cls-visual", "text-visual"}
        assert 0 < about["mass"]["cls-visual"] < 1
    everywhere = {"grids": [[12, 12]], "kept_cells": packed(np.ones(144, dtype=bool))}
    assert all(kept_share(everywhere, about, "target") == 1 for about in seen.values())
    assert kept_share({**everywhere, "grids": [[6, 24]]}, next(iter(seen.values())), "target") is None


def test_settings_name_interventions_that_there_are():
    study = Residual()
    assert {s.intervention for s in study.settings(False)} == {None, *study.interventions}
    assert Setting.of() in study.settings(True)
