"""Which tokens stay when a study decides it with the truth in hand."""

import functools
from dataclasses import replace

import pytest
import torch

from groundprune.checkpoints.load import load
from groundprune.data import DataSet, open_data
from groundprune.errors import GroundPruneError
from groundprune.evaluation.driver import answer_settings
from groundprune.evaluation.rows import kept_grids, read_rows
from groundprune.evaluation.specs import Setting
from groundprune.studies.parts.forcing import REGIONS, dropping, forced, regions
from support.touched import touched

LINE = torch.arange(36)
ROW, COL, EVERY = LINE // 6, LINE % 6, torch.ones(36, dtype=torch.bool)


def grid(*cells):
    found = torch.zeros(6, 6)
    for row, col in cells:
        found[row, col] = 1
    return found.flatten()


def named(target, other):
    return {name: mask.reshape(6, 6) for name, mask in regions(target, other, ROW, COL, EVERY).items()}


def test_the_regions_of_a_target_of_three_by_three():
    square = [(r, c) for r in (1, 2, 3) for c in (1, 2, 3)]
    found = named(grid(*square), grid((3, 3), (3, 4), (5, 5)))
    assert set(found) == set(REGIONS)
    assert found["target"].nonzero().tolist() == [list(cell) for cell in square]
    assert found["centre"].nonzero().tolist() == [[2, 2]]
    assert int(found["border"].sum()) == 8
    assert int(found["outline"].sum()) == 25 - 9
    assert found["distractors"].nonzero().tolist() == [[3, 4], [5, 5]]  # what both touch is the target's
    parts = found["target"].int() + found["distractors"].int() + found["background"].int()
    assert parts.eq(1).all()


def test_a_target_at_the_edge_of_the_image_has_its_border_there():
    found = named(grid(*((r, c) for r in (0, 1, 2) for c in (0, 1, 2))), grid())
    assert found["centre"].nonzero().tolist() == [[1, 1]]


def test_no_region_is_unknown_without_a_word():
    with pytest.raises(GroundPruneError, match="target"):
        forced(keep="targte")
    with pytest.raises(GroundPruneError, match="distractors"):
        dropping("background", like=["distractor"])


@functools.cache
def asked():
    found = open_data("scenes", scenes=12, seed=3)
    return DataSet(found.name, found.split, found.source, [s for s in found.samples if s.kind == "rec"])


@functools.cache
def model():
    return load("pocket")


def kept(tmp_path, keep, interventions):
    """Which of 12 x 12 patches `random` keeps of each sample, by intervention ("" = none)."""
    settings = [Setting("random", keep, intervention=name) for name in (None, *interventions)]
    answer_settings(*model(), asked(), settings, {}, out=tmp_path, progress=False, interventions=interventions)
    found = {name: {} for name in ("", *interventions)}
    rows = read_rows(tmp_path / "samples.jsonl")
    for setting in settings:
        for sample in asked().samples:
            grids = kept_grids(rows[setting.id, sample.id]) or []
            found[setting.intervention or ""][sample.id] = grids[0]
    return found


def test_forced_tokens_stay_and_as_many_go_as_without(tmp_path):
    found = kept(tmp_path, "0.5", {"kept": forced(keep="target"), "dropped": forced(drop="target")})
    for sample in asked().samples:
        target = touched([sample.box])
        assert found["kept"][sample.id][target].all()
        assert not found["dropped"][sample.id][target].any()
        assert {name: found[name][sample.id].sum() for name in found} == {"": 72, "kept": 72, "dropped": 72}
        # Among the others the pruner's own order decides: what fits beside the target was kept before.
        plain = found[""][sample.id]
        assert (found["kept"][sample.id] & ~target <= plain).all()
    assert any(not found[""][sample.id][touched([sample.box])].all() for sample in asked().samples)


def test_a_region_larger_than_the_budget_is_kept_by_its_best_scores(tmp_path):
    found = kept(tmp_path, "0.02", {"kept": forced(keep="target")})
    for sample in asked().samples:
        assert found["kept"][sample.id].sum() == 3
        assert touched([sample.box])[found["kept"][sample.id]].all()


def test_as_many_tokens_of_every_region_are_dropped(tmp_path):
    pair = ("background", "distractors")
    drops = {name: dropping(name, like=pair) for name in (*pair, "any")}
    found = kept(tmp_path, "0.5", drops)
    for sample in asked().samples:
        target, others = touched([sample.box]), touched(sample.others)
        regions = {"background": ~target & ~others, "distractors": others & ~target, "any": target | True}
        count = min(regions[name].sum() for name in pair)
        for name in drops:
            gone = ~found[name][sample.id]
            assert gone.sum() == count
            assert regions[name][gone].all()


def test_where_the_data_does_not_say_where_other_things_are_what_needs_them_is_skipped(tmp_path):
    """Else nothing would be dropped, and a study say that dropping it changes nothing."""
    unsaid = replace(asked(), samples=[replace(sample, others=None) for sample in asked().samples])
    changes = {
        "distractors": dropping("distractors", like=("background",)), "background": dropping("background"),
        "any": dropping("any", like=("background",)), "kept": forced(keep="distractors"),
        "target": forced(keep="target"),
    }  # fmt: skip
    settings = {name: Setting("random", "0.5", intervention=name) for name in changes}
    summary = answer_settings(
        *model(), unsaid, list(settings.values()), {}, out=tmp_path, progress=False, interventions=changes
    )
    assert set(summary.skipped) == {settings[name].id for name in changes if name != "target"}
    assert all("does not say where else things are" in why for why in summary.skipped.values())


def test_a_pruner_without_scores_is_skipped(tmp_path):
    settings = [Setting(pruner, "0.5", intervention="kept") for pruner in ("random", "spatial")]
    given = {"kept": forced(keep="target")}
    summary = answer_settings(*model(), asked(), settings, {}, out=tmp_path, progress=False, interventions=given)
    assert "nothing to force" in summary.skipped["spatial/keep=0.5/preserved/kept"]
