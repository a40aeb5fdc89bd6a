"""Studies of trained variants: intervals are over trainings, and what they say of rows whose truth is known."""

import math

import pytest
import torch

from groundprune.cli import main
from groundprune.errors import GroundPruneError, Unservable
from groundprune.evaluation.interventions import Truths
from groundprune.pruners import Random
from groundprune.studies import running
from groundprune.studies.parts.axis_rules import axis_reassigned, lines_shuffled
from groundprune.studies.parts.drawing import drawn
from groundprune.studies.parts.trained import NEED, UNPRUNED, Variants, kept, over_seeds, right
from groundprune.studies.running import redraw
from groundprune.studies.study import FAILS, HOLDS, UNTOLD, studies, study_of
from groundprune.tokens.layout import VisualLayout
from groundprune.tokens.positions import PLAIN, Row
from support.study_rows import made_rows, made_run

TRAINED = [name for name, study in studies().items() if study.trained]
N = 100


def trained(study, shares, seeds=3):
    """Runs in which each variant is right in such a share of what is asked, by setting's id; others 0.9."""
    runs = []
    for variant in study.variants:
        for seed in range(seeds):
            rows = []
            for setting in study.settings(False):
                for kind in study.kinds:
                    share = shares(variant, setting) + 0.01 * seed
                    answers = [i < round(share * N) for i in range(N)]
                    pixels = [{"both": 60 * ok, "either": 100, "outlined": True} for ok in answers]
                    made = made_rows(setting, kind, answers)
                    rows += [{**row, "iou": 0.6 * row["correct"], "pixels": p}
                             for row, p in zip(made, pixels, strict=True)]  # fmt: skip
            runs.append(made_run(rows, f"{variant}-s{seed}"))
    return runs


def paper(variant, setting):
    """As in the paper: reassigned or permuted ids take nearly all, preserved ones little."""
    lost = setting.positions not in ("preserved", "shifted:1", "shifted:8", "shifted:32") or "-" in (
        (setting.intervention or "").replace("objects-kept", "")
    )
    return 0.05 if lost else 0.85 if setting.pruner else 0.9


def verdicts(study, runs):
    return {claim.text: claim.verdict for claim in study.findings(runs).claims}


def test_intervals_are_students_over_trainings():
    found = over_seeds("a", [0.5, 0.6, 0.7])
    reach = 4.303 * 0.1 / math.sqrt(3)
    assert (found.n, found.value) == (3, pytest.approx(0.6))
    assert (found.low, found.high) == (pytest.approx(0.6 - reach), pytest.approx(0.6 + reach))
    assert over_seeds("a", [0.5]).high == math.inf
    assert over_seeds("a", [0.5, None]).n == 0


@pytest.mark.parametrize("name", TRAINED)
def test_the_papers_picture_is_recognised(name):
    study = study_of(name)
    runs = trained(study, paper)
    findings = study.findings(runs)
    assert "Nothing" not in findings.answer
    text, verdict = next((claim.text, claim.verdict) for claim in findings.claims)
    assert verdict == HOLDS or name == "offset", text
    assert drawn(study, runs).axes


@pytest.mark.parametrize("name", TRAINED)
def test_nothing_is_concluded_of_what_has_not_learnt(name):
    study = study_of(name)
    findings = study.findings(trained(study, lambda variant, setting: 0.4))
    assert {claim.verdict for claim in findings.claims} == {UNTOLD}
    assert "Nothing" in findings.answer
    assert findings.notes != study.findings(trained(study, paper)).notes


@pytest.mark.parametrize("name", TRAINED)
def test_one_training_decides_nothing(name):
    study = study_of(name)
    findings = study.findings(trained(study, paper, seeds=1))
    assert HOLDS not in {claim.verdict for claim in findings.claims}
    assert "1 training" in "".join(claim.measured for claim in findings.claims)


def test_a_source_that_makes_ids_needless_is_told_apart():
    study = study_of("sources")
    found = verdicts(study, trained(study, lambda v, s: 0.85 if v == "before" else paper(v, s)))
    assert found["explicit coordinates added before the projector make preserved ids needless"] == HOLDS
    assert found["explicit coordinates added before the projector lessen the need"] == HOLDS
    assert found["explicit coordinates added after it make preserved ids needless"] == FAILS
    assert found["a tower with 2-D rotary positions needs preserved ids less"] == FAILS


def test_what_is_lost_with_the_tokens_is_no_need_of_ids():
    """A model that reads half as much from the tokens that stay loses as much of it to reassigned ids."""

    def halved(variant, setting):
        dropped = variant == "three-axes" and setting.pruner
        return paper(variant, setting) / 2 if dropped else paper(variant, setting)

    found = verdicts(study_of("rope"), trained(study_of("rope"), halved))
    assert found["three-axes: REC needs preserved ids"] == HOLDS
    assert found["with three axes a model needs preserved ids less"] == FAILS


def test_differences_are_paired_by_seed():
    """Seeds differ by more than variants do: only pairs tell."""
    runs = [
        made_run([*made_rows(UNPRUNED, "rec", [i < n for i in range(N)])], f"{variant}-s{seed}")
        for variant, more in (("a", 0), ("b", 10))
        for seed, base in enumerate((62, 72, 82))
        for n in [base + more]
    ]
    less = Variants(runs).less("b", "a", right(UNPRUNED))
    assert (less.value, less.low) == (pytest.approx(0.1), pytest.approx(0.1))
    assert Variants(runs[:-1]).less("b", "a", right(UNPRUNED)).n == 2
    assert NEED(made_run([])) is None
    assert kept("preserved").intervention == "objects-kept"


def grid_row(axes: int) -> Row:
    """One word, an image of 2 x 3 tokens, one word."""
    column, cell = torch.arange(1, 7), torch.arange(6)
    if axes == 1:
        position = torch.arange(8)[None]
    else:
        image = torch.stack([torch.ones_like(cell), 1 + cell // 3, 1 + cell % 3])
        position = torch.cat([torch.zeros(3, 1, dtype=torch.long), image, torch.full((3, 1), 4)], 1)
    zero, every = torch.zeros(6, dtype=torch.long), torch.ones(6, dtype=torch.bool)
    layout = VisualLayout(
        column, zero, zero, cell // 3, cell % 3, every, zero, every, position[:, column], 8, unit=(0,)
    )  # fmt: skip
    return Row(position, torch.arange(8), layout, torch.arange(6))


def shuffled(which: str, row: Row):
    _, policy = lines_shuffled(which, seed=1)(Random(keep=1), PLAIN["preserved"], Truths([], [], "whole"))
    return policy(row)[0]


def test_rows_change_places_as_wholes():
    one = shuffled("rows", grid_row(1))[0].tolist()
    assert (one[0], one[-1]) == (0, 7)
    assert one[1:7] in ([1, 2, 3, 4, 5, 6], [4, 5, 6, 1, 2, 3])
    columns = shuffled("columns", grid_row(1))[0, 1:7].view(2, 3)
    assert (columns[1] - columns[0]).tolist() == [3, 3, 3]
    three = shuffled("columns", grid_row(3))
    assert three[:2].equal(grid_row(3).original[:2])
    assert sorted(three[2, 1:4].tolist()) == [1, 2, 3]


def test_one_axis_is_reassigned_alone():
    row = grid_row(3)
    row = Row(row.position, torch.tensor([0, 2, 4, 6, 7]), row.layout, torch.tensor([1, 3, 5]))
    found = axis_reassigned("rows")(row)[0]
    assert found[1].tolist() == [0, 1, 2, 3, 4]
    assert found[[0, 2]].equal(row.original[[0, 2]])
    with pytest.raises(Unservable, match="1 axes"):
        axis_reassigned("rows")(grid_row(1))


def test_without_stored_runs_the_training_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(running, "_checkout", lambda: tmp_path)
    with pytest.raises(GroundPruneError, match=r"python -m tools\.variants rope"):
        redraw(study_of("rope"), tmp_path / "out")


@pytest.mark.parametrize("option", ["--model", "--data", "--limit"])
def test_a_study_of_trained_models_takes_no_other_model(option, tmp_path, capsys):
    value = "5" if option == "--limit" else "elsewhere"
    assert main(["study", "rope", option, value, "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert option in said
    assert "python -m tools.variants rope" in said
    assert not (tmp_path / "out").exists()


def test_an_unknown_study_names_all_that_the_command_takes(capsys):
    assert main(["study", "swep"]) == 2
    said = capsys.readouterr().err
    assert "did you mean 'sweep'" in said
    assert all(name in said for name in ("all", "list", "table1"))
