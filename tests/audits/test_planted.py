"""Pruning as forks write it, on three families: what is said of it, and what is said when one id is moved by one."""

import pytest

import groundprune as gp
from groundprune.exactness.tiny import tiny_inputs
from support.families import model_of
from support.generating import snapshot
from support.planted import PLANTS, call, kept_columns, tail, visual_columns

FAMILIES = ("llava", "qwen2_5_vl", "internvl")


@pytest.fixture(scope="module", params=FAMILIES)
def subject(request):
    model = model_of(request.param)
    inputs = tiny_inputs(model, [(1, 5, 7)])
    model(**inputs)  # transformers puts hooks of its own into a tower that runs for the first time
    return model, inputs


@pytest.mark.parametrize("name", PLANTS)
def test_what_a_patch_does_is_said(subject, name):
    plant, visual, verdict = PLANTS[name]
    before = snapshot(subject[0])
    found = gp.audit(call(plant()), *subject)
    assert snapshot(subject[0]) == before
    (row,) = found.rows
    stage = row.stages[-1]
    assert stage.visual == visual
    assert verdict.format(tail=tail(*subject)) in found.verdict
    assert found.exit_code == (0 if verdict == "preserved" else 1)
    assert found.eager_layers == ((0, 1, 2, 3) if name == "inside attention" else ())
    assert [each.first for each in row.stages] == ([0, 2] if name.startswith("between") else [0])
    # Which tokens stayed, in the sequence in which they stood.
    rank = visual_columns(*subject).cumsum(0) - 1
    kept = kept_columns(*subject)
    ranks = rank[kept[visual_columns(*subject)[kept]]].tolist()
    assert list(stage.kept) == (ranks[::-1] if name.startswith("reordered") else ranks)
    same = visual == "preserved" and not name.startswith("reordered")  # up to the prompt's last token
    assert (found.difference < 1e-5) if same else (found.difference > 1e-3)


@pytest.mark.parametrize("name", PLANTS)
def test_one_id_moved_by_one_is_told_apart(subject, name):
    plant, _, _ = PLANTS[name]
    found = gp.audit(call(plant(move=1), steps=1), *subject)
    assert found.rows[0].stages[-1].visual.startswith("other: ")
    assert found.exit_code == 1


def test_a_stock_model_prunes_nothing(subject):
    found = gp.check(call(None), *subject)
    assert found.verdict == "nothing pruned"
    assert found.exit_code == 0
    assert found.passes == 3
    (stage,) = found.rows[0].stages
    assert [tuple(map(round, p)) for p in stage.positions] == [tuple(map(round, p)) for p in found.rows[0].own]
    assert found.difference < 1e-5


def test_a_check_raises_with_the_verdict(subject):
    plant, _, _ = PLANTS["ids from the compact mask"]
    with pytest.raises(gp.GroundPruneError, match=r"^not preserved: visual ids renumbered; ") as raised:
        gp.check(call(plant()), *subject)
    assert raised.value.audit.exit_code == 1
