"""What the study says of rows whose truth is known: groups of questions that lose apart."""

import numpy as np
import pytest
from PIL import Image

from groundprune.data.samples import Sample
from groundprune.studies.spatial_vqa import STEP, UNPRUNED, SpatialVqa, is_spatial, members
from groundprune.studies.study import FAILS, HOLDS, UNTOLD, Bench
from support.study_rows import made_rows, made_run

N = 1500
TYPES = {"spatial": range(500), "existence": range(500, 1000), "color": range(1000, 1500)}


def run(spatial, existence, color, rows_of=lambda rows: rows, measured=None):
    """Of each group how many of 500 are right, by policy."""
    rows = []
    for setting in SpatialVqa().settings(quick=True):
        policy = setting.positions if setting.pruner else "unpruned"
        right = []
        for group in (spatial, existence, color):
            count = group[policy]
            right += [True] * count + [False] * (500 - count)
        made = made_rows(setting, "vqa", right)
        for type, where in TYPES.items():
            for i in where:
                made[i]["type"] = type
        rows += made
    return made_run(rows_of(rows), **(measured or {}))


def level(unpruned, preserved, moved):
    return {"unpruned": unpruned, "preserved": preserved} | dict.fromkeys(
        ("reassigned", "reassigned-image", "stretched"), moved
    )


def verdicts(*groups):
    return [claim.verdict for claim in SpatialVqa().findings([run(*groups)] * 2).claims]


def test_only_spatial_questions_need_their_ids():
    needs, not_ = level(480, 480, 250), level(480, 480, 480)
    assert verdicts(needs, not_, not_) == [HOLDS, HOLDS, HOLDS, HOLDS, FAILS, HOLDS, UNTOLD, FAILS]


def test_all_questions_need_them_alike():
    same = level(480, 400, 250)
    found = verdicts(same, same, same)
    assert found[1:6] == [UNTOLD, UNTOLD, HOLDS, HOLDS, FAILS]
    assert found[0] == UNTOLD


def test_others_lose_more():
    assert verdicts(level(480, 480, 480), level(480, 480, 250), level(480, 480, 250))[:3] == [FAILS, FAILS, FAILS]


def test_guessing_on_questions_with_two_answers_is_told_apart():
    # Color loses nothing, and so pulls the others down; existence loses as much as spatial questions do.
    found = verdicts(level(480, 480, 250), level(480, 480, 250), level(480, 480, 480))
    assert found[1:3] == [HOLDS, UNTOLD]


def test_the_words_of_a_question_say_whether_it_is_spatial():
    def sample(type, text):
        return Sample("x", Image.new("RGB", (2, 2)), "vqa", type, text, None, "yes", "testdev")

    assert is_spatial(sample("spatial", "is the red circle left of the star"))
    assert is_spatial(sample("rel", "Is the chair to the LEFT of the table?"))
    assert not is_spatial(sample("rel", "Is the man wearing a hat?"))
    assert not is_spatial(sample("attr", "Is the left chair brown?"))


def test_what_was_measured_says_which_questions_are_spatial_and_is_stored():
    samples = [
        Sample(str(i), Image.new("RGB", (2, 2)), "vqa", "rel", text, None, "yes", "testdev")
        for i, text in enumerate(["is it above the bed", "is he eating"])
    ]

    class Data:
        pass

    data = Data()
    data.samples = samples
    stored = {}
    SpatialVqa().measure(Bench(None, None, data, True, stored=stored))
    assert stored == {STEP: ["0"]}


def test_measured_ids_go_before_types():
    named = run(level(1, 1, 1), level(1, 1, 1), level(1, 1, 1), measured={STEP: ["vqa-0700", "vqa-9999"]})
    assert members(named, "spatial") == {"vqa-0700"}
    assert "vqa-0000" in members(named, "others")


def test_data_without_spatial_questions_tells_nothing_of_them():
    def others(rows):
        return [row for row in rows if row["type"] != "spatial"]

    found = SpatialVqa().findings([run(*[level(480, 480, 250)] * 3, rows_of=others)])
    assert found.claims[0].verdict == UNTOLD
    assert found.claims[4].verdict == HOLDS
    assert {claim.verdict for claim in SpatialVqa().findings([made_run([])]).claims} == {UNTOLD}
    SpatialVqa().draw([made_run([])])


def test_rows_are_drawn_where_they_are():
    figure = SpatialVqa().draw([run(level(480, 400, 250), level(480, 450, 300), level(480, 450, 300))])
    for panel, preserved, moved in ((0, 80, 50), (1, 90, 60)):
        drawn = [np.asarray(line.get_ydata(), dtype=float) for line in figure.axes[panel].get_lines()]
        assert any(np.isclose(y, preserved).all() for y in drawn)
        assert any(np.isclose(y, moved).all() for y in drawn)
    gaps = [np.asarray(line.get_ydata(), dtype=float) for line in figure.axes[3].get_lines()]
    assert any(len(y) == 3 and y == pytest.approx([-30, -30, -30]) for y in gaps)


def test_the_first_setting_is_unpruned():
    assert SpatialVqa().settings(quick=False)[0] == UNPRUNED
