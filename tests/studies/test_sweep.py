"""What the sweep says of rows whose truth is known."""

import numpy as np
import pytest

from groundprune.evaluation.specs import Setting
from groundprune.studies.parts.effects import differences, positive
from groundprune.studies.parts.sweep_settings import OURS, UNPRUNED, above_unpruned, best_rival
from groundprune.studies.study import FAILS, HOLDS, UNTOLD
from groundprune.studies.sweep import Sweep
from support.study_rows import made_rows, made_run

N = 400
REC = {"unpruned": 360, "preserved": 340, "reassigned": 8, "reassigned-image": 8, "stretched": 40, "official": 8}
VQA = dict.fromkeys(REC, 380)


def run(rec=REC, vqa=VQA, special=None, quick=True, n=N):
    """So many right of n, by policy; special: of one setting by id, of REC."""
    rows = []
    for setting in Sweep().settings(quick):
        policy = setting.positions if setting.pruner else "unpruned"
        for kind, right in (("rec", (special or {}).get(setting.id, rec[policy])), ("vqa", vqa[policy])):
            rows += made_rows(setting, kind, [True] * right + [False] * (n - right))
    return made_run(rows)


def verdicts(**how):
    return [claim.verdict for claim in Sweep().findings([run(**how)] * 2).claims]


def test_the_papers_picture():
    assert verdicts() == [HOLDS] * 6 + [FAILS, UNTOLD, HOLDS, HOLDS, HOLDS, FAILS]


def test_the_opposite():
    opposite = {**REC, "preserved": 160, "reassigned": 350, "reassigned-image": 380, "stretched": 200}
    lost = {**VQA, "preserved": 360, "reassigned": 280}
    found = verdicts(rec=opposite, vqa=lost)
    assert found[:6] + found[8:11] == [FAILS] * 9


def test_one_setting_above_unpruned_is_found_and_named():
    found = Sweep().findings([run(special={"random/keep=0.2/preserved": 396})] * 2)
    assert found.claims[6].verdict == HOLDS
    assert "random 0.2" in found.claims[6].measured


def test_one_of_many_settings_a_little_above_is_no_evidence():
    # 4 samples of 400 gained and none lost: enough for one setting, where 5 were looked at it is not.
    runs = [run(special={"random/keep=0.2/preserved": 364})] * 2
    assert positive(differences(runs, Setting.of("random", "0.2"), UNPRUNED, "rec")) == HOLDS
    assert above_unpruned(runs, "rec").verdict == UNTOLD


def test_the_best_rival_is_the_best_and_coverage_is_measured_against_it():
    special = {f"vispruner/keep={keep}/preserved": 352 for keep in ("0.9", "0.5", "0.2")}
    special |= {f"{OURS}/keep={keep}/preserved": 348 for keep in ("0.9", "0.5", "0.2")}
    name, effects = best_rival([run(special=special)])
    assert name == "vispruner"
    assert effects[0].value == pytest.approx(-0.01)


def test_what_a_run_skipped_is_left_out_and_nothing_is_told_of_nothing():
    whole = run()
    fewer = made_run([row for row in whole.rows if not row["setting"].startswith(("trim", OURS))])
    found = Sweep().findings([whole, fewer])
    assert found.claims[0].verdict == HOLDS
    assert "cls-visual, random:" in found.notes[0]
    assert found.claims[11].verdict == UNTOLD
    nothing = Sweep().findings([made_run([])])
    assert {claim.verdict for claim in nothing.claims} == {UNTOLD}
    Sweep().draw([made_run([])])


def test_rows_are_drawn_where_they_are():
    figure = Sweep().draw([run(n=N)])
    drawn = [np.asarray(line.get_ydata(), dtype=float) for line in figure.axes[0].get_lines()]
    assert any(len(y) == 3 and np.isclose(y, 85).all() for y in drawn)
    assert any(len(y) == 3 and np.isclose(y, 2).all() for y in drawn)


def test_every_setting_is_one_that_can_be_made():
    for quick in (True, False):
        settings = Sweep().settings(quick)
        assert settings[0] == UNPRUNED
        assert len({s.id for s in settings}) == len(settings)
        for setting in settings:
            setting.make_pruner()
