"""The runner on the pocket model, against the plainest way to get the same answers."""

import pytest
import torch

import groundprune as gp
from groundprune.checkpoints.prompts import chat_prompt
from groundprune.data import scene_samples
from groundprune.errors import GroundPruneError, Unservable
from groundprune.evaluation import Runner, Setting
from support.closeness import assert_apart

PRUNERS = ("random", "spatial", "cls-visual", "text-visual")


@pytest.fixture(scope="module")
def pocket():
    return gp.load()


@pytest.fixture(scope="module")
def samples():
    return list(scene_samples(5, seed=7))


@pytest.fixture(scope="module")
def runner(pocket, samples):
    runner = Runner(*pocket, samples, batch_size=3)
    runner.prepare([Setting.of(name, 0.5) for name in PRUNERS])
    return runner


def answers(runner, setting, done=()):
    return {row["sample"]: row for rows in runner.run(setting, done) for row in rows}


def one_by_one(pocket, runner, sample):
    """Text of one sample, from pixels, without batches, padding or stored images."""
    model, processor = pocket
    template = {"rec": runner.grounding.rec_prompt, "vqa": runner.grounding.vqa_prompt}[sample.kind]
    prompt = chat_prompt(processor, template.format(expression=sample.text, question=sample.text))
    inputs = processor(images=sample.image, text=prompt, return_tensors="pt")
    with torch.no_grad():
        out = model.generate(**inputs, max_new_tokens=runner.max_new_tokens(sample.kind), do_sample=False)
    return processor.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()


def test_unpruned_answers_are_those_of_the_plain_model(pocket, runner, samples):
    found = answers(runner, Setting.of())
    assert {s.id: one_by_one(pocket, runner, s) for s in samples} == {k: r["answer"] for k, r in found.items()}
    assert {row["kept"] for row in found.values()} == {144}


@pytest.mark.parametrize("positions", ["preserved", "reassigned"])
@pytest.mark.parametrize("pruner", PRUNERS)
def test_encoding_once_equals_pruning_from_pixels(pocket, runner, samples, pruner, positions):
    found = answers(runner, Setting.of(pruner, 0.5, positions=positions))
    assert {row["kept"] for row in found.values()} == {72}
    for sample in (samples[0], samples[-1]):
        with gp.prune(pocket[0], gp.make_pruner(pruner, keep=0.5), positions, text=[sample.text]):
            assert one_by_one(pocket, runner, sample) == found[sample.id]["answer"]


def test_policies_reach_the_model(pocket, runner):
    """Other ids give other logits: the answers of a well trained model may be the same."""
    model, _ = pocket
    logits = {}
    for positions in ("preserved", "reassigned", "shifted:8", "permuted:0"):
        setting = Setting.of("spatial", 0.25, positions=positions)
        inputs = runner._ready.inputs([0], runner.processor.tokenizer, model.device)
        with torch.inference_mode(), gp.prune(model, setting.make_pruner(), positions):
            logits[positions] = model(**inputs).logits[0, -1]
    # Rotary positions are relative: a shift of image and text together changes what the words before them see.
    for positions in ("reassigned", "shifted:8", "permuted:0"):
        assert_apart(logits[positions], logits["preserved"], 1e-2)


def test_ids_alone_can_change(runner):
    assert {row["kept"] for row in answers(runner, Setting.of(positions="permuted:0")).values()} == {144}


def test_batches_do_not_depend_on_what_is_done(runner, samples):
    setting = Setting.of("cls-visual", 0.25)
    whole = answers(runner, setting)
    done = {samples[0].id, samples[7].id}
    assert answers(runner, setting, done) == {k: row for k, row in whole.items() if k not in done}
    assert sorted(i for batch in runner.batches() for i in batch) == list(range(len(samples)))
    assert list(runner.run(setting, {s.id for s in samples})) == []


def test_a_model_without_text_tower_is_refused_before_any_work(pocket, samples, monkeypatch, tmp_path):
    monkeypatch.setattr(pocket[0].config, "_name_or_path", str(tmp_path))
    with pytest.raises(Unservable, match="text_tower"):
        Runner(*pocket, samples).check([Setting.of(), Setting.of("text-visual", 0.5)])


def test_a_runner_refuses_repeated_ids_and_empty_batches(pocket, samples):
    with pytest.raises(GroundPruneError, match="share an id"):
        Runner(*pocket, [samples[0], samples[0]])
    with pytest.raises(GroundPruneError, match="at least 1"):
        Runner(*pocket, samples, batch_size=0)
