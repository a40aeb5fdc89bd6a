"""What is dropped, where answers look, and what the study says of gains that are known."""

import functools
from dataclasses import replace

import numpy as np
import pytest
import torch

from groundprune.checkpoints.load import load
from groundprune.data import DataSet, open_data
from groundprune.evaluation.driver import answer_settings
from groundprune.evaluation.rows import kept_grids, read_rows
from groundprune.pruners.spatial import Spatial
from groundprune.pruning.inputs import prune_inputs
from groundprune.studies import running
from groundprune.studies.filter import Filter
from groundprune.studies.parts.asking import batches
from groundprune.studies.parts.attending import ATTENTION, attention_over_image, looks
from groundprune.studies.parts.filter_drops import EQUAL, KEEPS, PRUNERS, SHARES, UNPRUNED, equal, much
from groundprune.studies.parts.noise import STRENGTH, noisy_data
from groundprune.studies.study import FAILS, HOLDS, UNTOLD, Bench, Setting
from support.closeness import assert_near
from support.study_rows import made_rows, made_run
from support.touched import touched

TYPES = ("attribute", "relation")
N = 400  # rows of each type
BASE = [i % 10 < 7 for i in range(N)]  # 70%
BETTER = [i % 10 < 8 for i in range(N)]  # right wherever BASE is, and in 10% more
WORSE = [i % 10 < 4 for i in range(N)]


@functools.cache
def scenes():
    found = open_data("scenes", scenes=8, seed=3)
    return DataSet(found.name, found.split, found.source, [s for s in found.samples if s.kind == "rec"])


@functools.cache
def model():
    return load("pocket")


def test_only_what_is_said_is_dropped_and_equally_much(tmp_path):
    settings = [*map(equal, EQUAL), *(much(region, share) for region in ("background", "any") for share in SHARES)]
    given = {"progress": False, "out": tmp_path, "interventions": Filter.interventions}
    answer_settings(*model(), scenes(), settings, {}, **given)
    rows = read_rows(tmp_path / "samples.jsonl")
    for sample in scenes().samples:
        target, others = touched([sample.box]), touched(sample.others)
        allowed = {"background": ~target & ~others, "distractors": others & ~target, "any": target | True}
        least = min(allowed[region].sum() for region in ("background", "distractors"))
        wanted = [(region, equal(region), least) for region in EQUAL]
        for region in ("background", "any"):
            wanted += [(region, much(region, s), int(s * allowed["background"].sum())) for s in SHARES]
        for region, setting, count in wanted:
            gone = ~np.asarray(kept_grids(rows[setting.id, sample.id])).squeeze(0)
            assert gone.sum() == count
            assert allowed[region][gone].all()


def test_attention_is_what_the_model_itself_reports():
    """Two prompts of unequal length, some tokens dropped, against stock eager attention."""
    model_, processor = load("pocket")
    bench = Bench(model_, processor, scenes(), quick=True)
    some = sorted(scenes().samples, key=lambda s: len(s.text.split()))
    ((samples, inputs, truths),) = batches(bench, [some[0], some[-1]])
    short = prune_inputs(model_, inputs, Spatial(keep="0.5"))
    found = attention_over_image(bench, (samples, inputs, truths), short)
    model_.set_attn_implementation("eager")
    how = {"max_new_tokens": 8, "do_sample": False, "output_attentions": True, "return_dict_in_generate": True}
    stock = model_.generate(**short, **how)
    end = model_.generation_config.eos_token_id
    ends = {end} if isinstance(end, int) else set(end)
    said = stock.sequences[:, short["input_ids"].shape[1] :].tolist()
    assert len(short.layout[0]) == 144
    lengths = [int(row.sum()) for row in short["attention_mask"]]
    assert lengths[0] != lengths[1]
    for row, layout in enumerate(short.layout):
        padding = short["input_ids"].shape[1] - lengths[row]
        first = padding + int(layout.column[0]) - int((inputs["attention_mask"][row] == 0).sum())
        steps = next(i for i, token in enumerate(said[row]) if token in ends)
        rows = [
            torch.stack([a[row, :, -1, first : first + 72].mean(0) for a in stock.attentions[t]])
            for t in range(steps)
        ]
        expected = torch.zeros(144)
        expected[short.kept[row]] = torch.stack(rows).mean((0, 1))
        assert steps == 4
        assert_near(found[row], expected)


def test_what_is_left_over_and_what_is_gained():
    before, kept, target = torch.tensor([0.2, 0.2, 0.1, 0.1]), torch.tensor([0, 2]), torch.tensor([1, 0, 0, 0]).bool()
    said = looks(before, torch.tensor([0.4, 0.0, 0.1, 0.0]), kept, target)
    assert said["image_before"] == pytest.approx(0.6)
    assert said["image"] == pytest.approx(0.5)
    assert said["target_before"] == pytest.approx(1 / 3, abs=1e-5)
    assert said["target_left"] == pytest.approx(2 / 3, abs=1e-5)
    assert said["target"] == pytest.approx(0.8, abs=1e-5)
    even = looks(torch.ones(4) / 4, torch.tensor([0.5, 0.5, 0, 0]), torch.tensor([0, 1]), target)
    assert (even["entropy_before"], even["entropy_left"], even["entropy"]) == (2.0, 1.0, 1.0)


def test_noise_is_a_function_of_the_sample_and_of_the_strength_that_is_said():
    plain, found, again = scenes(), noisy_data(scenes()), noisy_data(scenes())
    changes = []
    for sample, noised, other in zip(plain.samples, found.samples, again.samples, strict=True):
        pixels = [np.asarray(s.image, dtype=float) for s in (sample, noised, other)]
        assert (pixels[1] == pixels[2]).all()
        assert (sample.id, sample.box, sample.text) == (noised.id, noised.box, noised.text)
        inside = (pixels[0] > 110) & (pixels[0] < 145)  # where almost nothing is cut off at 0 and 255
        changes.append((pixels[1] - pixels[0])[inside])
    assert np.concatenate(changes).std() == pytest.approx(STRENGTH, rel=0.03)
    assert np.corrcoef(changes[0][:500], changes[1][:500])[0, 1] == pytest.approx(0, abs=0.2)
    other = replace(plain, name="refcoco")
    assert noisy_data(other) is other
    assert "noise" in found.split


def test_the_study_asks_noisy_scenes_and_of_expressions_alone():
    found = running._data(Filter(), running.Asked(models={}, limit=2))
    plain = open_data("scenes", scenes=2).samples
    assert [s.id for s in found.samples] == [s.id for s in plain if s.kind == "rec"]
    assert "noise" in found.split
    assert (np.asarray(found.samples[0].image) != np.asarray(plain[0].image)).mean() > 0.9


def run(gains, model="made", pruned=WORSE, looked=None):
    """Rows that are BASE but for `gains`: by setting and type, what is right."""
    settings = [UNPRUNED, *map(equal, EQUAL), *(much(r, s) for r in ("background", "any") for s in SHARES)]
    high = [Setting.of(pruner, keep) for pruner in PRUNERS for keep in KEEPS]
    rows = []
    for setting in (*settings, *high):
        for i, type in enumerate(TYPES):
            right = gains.get((setting.id, type), pruned if setting in high else BASE)
            made = made_rows(setting, "rec", right, type, kept=144 if setting == UNPRUNED else 100)
            rows += [row | {"sample": f"{i}-{row['sample']}"} for row in made]
    return made_run(rows, model, **({ATTENTION: looked} if looked else {}))


def verdicts(*runs):
    return {claim.text: claim.verdict for claim in Filter().findings(runs).claims}


SOME = "some type of expression gains from dropping tokens of one region"


def test_a_planted_gain_is_found_on_the_type_that_has_it():
    planted = run({(equal("distractors").id, "relation"): BETTER})
    findings = Filter().findings([planted, planted])
    said = {claim.text: claim for claim in findings.claims}
    assert said["dropping only distractors raises accuracy over the unpruned model"].verdict == HOLDS
    assert said["dropping as many tokens of the background alone raises it"].verdict == FAILS
    assert said[SOME].verdict == HOLDS
    assert "distractors, relation: +10.0" in said[SOME].measured
    assert "attribute" not in said[SOME].measured
    assert "distractors alone (with the truth in hand) gives +5.0 / +5.0 points" in findings.answer


def test_no_gain_is_said_to_be_none():
    found = verdicts(run({}), run({}))
    assert {verdict for text, verdict in found.items() if "look" not in text and "attention" not in text} == {FAILS}


def test_a_gain_in_one_training_alone_is_none():
    assert verdicts(run({(equal("distractors").id, "relation"): BETTER}), run({}))[SOME] == UNTOLD


def test_one_pruner_above_the_unpruned_model_is_enough():
    better = run({(Setting.of("text-visual", "0.1").id, type): BETTER for type in TYPES})
    claim = "a pruner is above the unpruned model where 75 or 90% are dropped"
    assert verdicts(better, better)[claim] == HOLDS
    assert verdicts(run({}), run({}))[claim] == FAILS


def test_a_pruner_that_the_model_cannot_run_is_not_asked_for():
    lacking = run({})
    rows = [row for row in lacking.rows if not row["setting"].startswith(f"{PRUNERS[-1]}/")]
    claim = "a pruner is above the unpruned model where 75 or 90% are dropped"
    found = {each.text: each for each in Filter().findings([replace(lacking, rows=rows)]).claims}[claim]
    assert found.verdict == FAILS
    assert found.measured.startswith(f"the best of {len(PRUNERS[:-1]) * len(KEEPS)}, ")


def looked(target):
    """Attention as measured: 30% on the target before, 50% if spread over the others, then so much."""
    noise = np.random.default_rng(0).normal(0, 0.02, 50)
    say = {"image": 0.6, "image_before": 0.7, "entropy": 4.0, "entropy_before": 6.0, "entropy_left": 5.0}
    rows = {
        str(i): say | {"target": target + e, "target_before": 0.3, "target_left": 0.5} for i, e in enumerate(noise)
    }
    return {"distractors": rows, "whole background": rows}


@pytest.mark.parametrize(
    ("target", "more", "beyond"), [(0.6, HOLDS, HOLDS), (0.4, HOLDS, FAILS), (0.2, FAILS, FAILS)]
)
def test_more_attention_than_is_left_over_is_a_claim_of_its_own(target, more, beyond):
    found = verdicts(run({}, looked=looked(target)))
    for name in ("distractors", "whole background"):
        assert found[f"without the {name} the answer looks more at the target"] == more
        rest = f"without the {name} the target gains more attention than what the dropped tokens leave over"
        assert found[rest] == beyond


def test_what_was_not_run_cannot_be_told():
    empty, bare = made_run([]), run({})
    assert set(verdicts(empty).values()) == {UNTOLD}
    assert UNTOLD in verdicts(bare).values()
    for runs in ([empty], [bare], [bare, empty]):
        Filter().draw(runs)
        Filter().findings(runs)


def test_gains_are_drawn_in_points():
    figure = Filter().draw([run({(equal("distractors").id, "relation"): BETTER})])
    drawn = [np.asarray(line.get_ydata(), float)[:1] for line in figure.axes[0].get_lines()]
    assert any(np.allclose(value, 10) and len(value) for value in drawn)
