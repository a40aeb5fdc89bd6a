"""What the study says of rows whose truth is known."""

import numpy as np
import pytest

from groundprune.studies.misalignment import SHIFTS, UNPRUNED, Misalignment, permuted, scaled, shifted
from groundprune.studies.study import FAILS, HOLDS, UNTOLD
from support.study_rows import made_rows, made_run

RIGHT = [True] * 95 + [False] * 5


def run(of_permuted, of_shifted, of_scaled=RIGHT):
    rows = []
    for kind in ("rec", "vqa"):
        rows += made_rows(UNPRUNED, kind, RIGHT) + made_rows(permuted("1"), kind, of_permuted)
        rows += made_rows(scaled("2"), kind, of_scaled)
        for by in SHIFTS:
            rows += made_rows(shifted(by), kind, of_shifted)
    return made_run(rows)


@pytest.mark.parametrize(
    ("of_permuted", "of_shifted", "verdicts"),
    [
        ([False] * 100, RIGHT, [HOLDS, HOLDS, FAILS, HOLDS]),
        (RIGHT, [False] * 100, [FAILS, FAILS, FAILS, FAILS]),
        ([True] * 93 + [False] * 7, [True] * 93 + [False] * 7, [UNTOLD, UNTOLD, FAILS, UNTOLD]),
    ],
)
def test_verdicts_follow_the_rows(of_permuted, of_shifted, verdicts):
    found = Misalignment().findings([run(of_permuted, of_shifted), run(of_permuted, of_shifted)])
    assert [claim.verdict for claim in found.claims] == verdicts


def test_one_run_of_two_is_not_enough():
    found = Misalignment().findings([run([False] * 100, RIGHT), run(RIGHT, RIGHT)])
    assert found.claims[0].verdict == UNTOLD


def test_a_shift_that_was_skipped_is_no_evidence():
    rows = [row for row in run([False] * 100, RIGHT).rows if "shifted" not in row["setting"]]
    assert Misalignment().findings([made_run(rows)]).claims[3].verdict == UNTOLD


def test_permuted_rows_are_drawn_where_they_are():
    figure = Misalignment().draw([run([True] * 40 + [False] * 60, RIGHT)])
    drawn = [line.get_ydata() for line in figure.axes[0].get_lines()]
    assert any(np.isclose(np.asarray(y, dtype=float), 40).any() for y in drawn)
