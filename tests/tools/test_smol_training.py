"""Training behind SmolLM2: packed rows against the stock model, a run that is killed, and what is exported."""

import json
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from PIL import Image

import groundprune as gp
from groundprune.boxes import Box, iou
from groundprune.checkpoints.load import grounding_of
from groundprune.checkpoints.prompts import box_codec, prompt_for
from groundprune.data.sources import open_data
from groundprune.errors import GroundPruneError
from support.closeness import assert_apart, assert_near
from support.smol import LANGUAGE, TEST_SEED, TOWER, config, decoder, learner_of
from tools.pocket_training.runtime import load_state
from tools.pocket_training.tower import to_pixels
from tools.smol.assembly import assemble
from tools.smol.export import TEST_SIZES, draw_tests, save_model, save_tests
from tools.smol.language import (
    EDGE_WEIGHT,
    END_WEIGHT,
    SPREAD,
    TEXT,
    WORD_WEIGHT,
    AnswerLoss,
    Lesson,
    load_learner,
    train_language,
)
from tools.smol.names import HELD_OUT_NAMES, plural
from tools.smol.pack import pack, unpack
from tools.smol.packing import Batches, Rows
from tools.smol.record import save_record
from tools.smol.scenes import GRID, IMAGE_SIZE, make_scene
from tools.smol.tower import Seer, load_seer, train_tower
from tools.smol.words import BINS, IMAGE


def train_both(folder, pictures, words, stops=(None, None)):
    model = decoder(words)
    embeddings = model.embed_tokens.weight.detach().clone()
    for stop in (stops[0], None):
        train_tower(TOWER, pictures, words, embeddings, config(words), folder / "tower.pt", stop_after=stop)
    for stop in (stops[1], None):
        seer = load_seer(folder / "tower.pt", TOWER, config(words))
        train_language(LANGUAGE, pictures, words, decoder(words), seer, folder / "language.pt", stop_after=stop)


def test_packed_questions_get_the_logits_of_the_stock_model(words, pictures):
    """Each question of a row, alone behind its prefix and image in a stock LLaVA that was put together."""
    torch.manual_seed(0)
    learner = learner_of(words)
    batch = Batches(Rows(0, 1, 2, 2, 2, 128), words, pictures)(0)
    batch["gap"][:] = 0
    row, column, _ = batch["predicts"]
    with torch.no_grad():
        packed, _ = learner(to_pixels(batch["images"]), row, column, **{name: batch[name] for name in TEXT})
    model = assemble(learner, words)
    assert model.lm_head.weight is model.model.language_model.embed_tokens.weight
    prefix = batch["prefix"][0, int(batch["prefix_pad"][0]) :]
    for number in batch["block"][0].unique().tolist():
        if number < 0:
            continue
        mine = batch["block"][0].flatten() == number
        ids = torch.cat([prefix, torch.full((GRID * GRID,), words.image), batch["tokens"][0].flatten()[mine]])[None]
        with torch.no_grad():
            logits = model(input_ids=ids, pixel_values=to_pixels(batch["images"])).logits[0]
        here = mine[column].nonzero()[:, 0]
        place = len(prefix) + GRID * GRID + batch["offset"][0].flatten()[column[here]]
        assert_near(packed[here], logits[place], 1e-4)
        assert_apart(packed[here], logits[place - 1], 1e-2)


def test_the_loss_is_soft_at_box_edges_within_their_form_and_hard_at_words(words):
    edges = [words.first_bins[0] + 30, words.first_bins[1], words.first_bins[2] + BINS - 1]
    token = torch.tensor([*edges, words.end, words.ids("yes")[0]])
    logits = torch.randn(len(token), len(words), generator=torch.Generator().manual_seed(0))
    chances, expected = logits.log_softmax(-1), []
    for row, edge in enumerate(token.tolist()):
        if row < 3:
            start = words.first_bins[row]
            near = torch.tensor([math.exp(-0.5 * ((edge - start - i) / SPREAD) ** 2) for i in range(BINS)])
            expected.append(EDGE_WEIGHT * -(near / near.sum() * chances[row, start : start + BINS]).sum())
        else:
            expected.append((END_WEIGHT if edge == words.end else WORD_WEIGHT) * -chances[row, edge])
    total = 3 * EDGE_WEIGHT + END_WEIGHT + WORD_WEIGHT
    loss, numbers = AnswerLoss(words, "cpu")(logits, token)
    assert_near(loss, sum(expected) / total, 1e-5)
    perfect = torch.nn.functional.one_hot(token, len(words)).float() * 50
    numbers = AnswerLoss(words, "cpu")(perfect, token)[1]
    assert numbers["words"] == 1
    assert numbers["bins off"] == 0


def test_greedy_answers_are_those_of_generate(words, pictures):
    torch.manual_seed(0)
    learner = learner_of(words)
    batch = Batches(Rows(0, 1, 1, 1, 2, 128), words, pictures)(0)
    batch["gap"][:] = 0
    found = Lesson(learner, words, 0.5, "cpu").answers(batch)
    model: Any = assemble(learner, words)
    prefix = batch["prefix"][0, int(batch["prefix_pad"][0]) :]
    for number, (said, (_, column)) in enumerate(zip(found, batch["asked"].T.tolist(), strict=True)):
        start = int((batch["block"][0].flatten() == number).nonzero()[0])
        asked = batch["tokens"][0].flatten()[start : column + 1]
        ids = torch.cat([prefix, torch.full((GRID * GRID,), words.image), asked])[None]
        out = model.generate(
            input_ids=ids, pixel_values=to_pixels(batch["images"]), attention_mask=torch.ones_like(ids),
            max_new_tokens=len(said[1]), do_sample=False, eos_token_id=None,
        )  # fmt: skip
        assert out[0, ids.shape[1] :].tolist() == said[1]


def test_a_training_that_was_killed_goes_on_to_the_bit(words, pictures, tmp_path):
    train_both(tmp_path / "whole", pictures, words)
    train_both(tmp_path / "broken", pictures, words, stops=(2, 3))
    for stage in ("tower", "language"):
        one, two = (load_state(tmp_path / each / f"{stage}.pt") for each in ("whole", "broken"))
        assert one["step"] == two["step"] == 4
        assert one["model"].keys() == two["model"].keys()
        for name, weight in one["model"].items():
            assert weight.equal(two["model"][name]), name
    lines = [json.loads(line) for line in (tmp_path / "broken" / "language.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [3, 4, 4]
    assert {"REC", "VQA"} <= lines[-1].keys()
    assert not any(name.startswith("seer.tower") for name in one["model"])
    seer = load_seer(tmp_path / "whole" / "tower.pt", TOWER, config(words))
    learner = load_learner(tmp_path / "whole" / "language.pt", LANGUAGE, words, decoder(words), seer)
    loaded = dict(learner.named_parameters())
    assert all(weight.equal(loaded[name]) for name, weight in one["model"].items())


def test_a_log_forgets_what_the_checkpoint_does_not_know(words, pictures, tmp_path):
    embeddings = decoder(words).embed_tokens.weight.detach()
    given = (TOWER, pictures, words, embeddings, config(words), tmp_path / "tower.pt")
    train_tower(*given, stop_after=2)
    log = tmp_path / "tower.jsonl"
    log.write_text(log.read_text() + '{"step": 3, "loss": 9.0}\n{"step": 4, "lo')
    train_tower(*given)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 4]
    assert lines[1]["loss"] != 9.0


def test_a_checkpoint_of_another_plan_is_refused(words, pictures, tmp_path):
    embeddings = decoder(words).embed_tokens.weight.detach()
    train_tower(TOWER, pictures, words, embeddings, config(words), tmp_path / "tower.pt", stop_after=1)
    with pytest.raises(GroundPruneError, match=r"edges=1\.0, now 2\.0"):
        train_tower(replace(TOWER, edges=2.0), pictures, words, embeddings, config(words), tmp_path / "tower.pt")
    with pytest.raises(GroundPruneError, match="run the stage tower first"):
        load_seer(tmp_path / "tower.pt", TOWER, config(words))


def test_a_half_trained_language_model_is_not_exported(words, pictures, tmp_path):
    path, seer = tmp_path / "language.pt", Seer(TOWER, config(words))
    train_language(LANGUAGE, pictures, words, decoder(words), seer, path, stop_after=1)
    with pytest.raises(GroundPruneError, match="run the stage language"):
        load_learner(path, LANGUAGE, words, decoder(words), seer)


def test_the_record_is_of_the_machine_that_trained(words, pictures, tmp_path, monkeypatch):
    monkeypatch.setattr("tools.smol.record._processor", lambda: "the training's")
    train_both(tmp_path, pictures, words)
    monkeypatch.setattr("tools.smol.record._processor", lambda: "another")
    save_record([tmp_path / "tower.pt", tmp_path / "language.pt"], tmp_path / "record")
    record = json.loads((tmp_path / "record" / "training.json").read_text())
    assert record["machine"] == "the training's, cpu"
    assert record["versions"]["torch"] == torch.__version__
    assert [record[stage]["plan"]["seed"] for stage in ("tower", "language")] == [0, 0]
    assert (tmp_path / "record" / "language.jsonl").read_bytes() == (tmp_path / "language.jsonl").read_bytes()


def test_a_packed_model_is_the_trained_one(words, pictures, tmp_path):
    torch.manual_seed(0)
    base, learner = decoder(words).state_dict(), learner_of(words)
    with torch.no_grad():
        for name, weight in learner.decoder.named_parameters():
            if weight.ndim == 2 and name in base and weight.requires_grad:
                weight.copy_(base[name] + 0.02 * torch.randn_like(weight))
    pack(learner, base, tmp_path / "smol.safetensors")
    read = unpack(tmp_path / "smol.safetensors", words, decoder(words), Seer(TOWER, config(words)))
    batch = Batches(Rows(0, 1, 2, 2, 2, 128), words, pictures)(0)
    row, column, _ = batch["predicts"]
    text = {name: batch[name] for name in TEXT}
    with torch.no_grad():
        want, found, begun = (
            each(to_pixels(batch["images"]), row, column, **text)[0] for each in (learner, read, learner_of(words))
        )
    assert_near(found, want, 0.03)
    assert_apart(begun, want, 0.3)
    count = sum(p.numel() for name, p in learner.named_parameters() if p.requires_grad and "hints" not in name)
    count += sum(p.numel() for p in learner.seer.tower.parameters())
    assert (tmp_path / "smol.safetensors").stat().st_size < 2 * count


def test_what_is_exported_is_asked_as_it_was_trained(words, pictures, tmp_path):
    torch.manual_seed(0)
    learner = learner_of(words)
    learner.decoder.config.name_or_path = "/home/someone"
    save_model(assemble(learner, words), words, tmp_path / "model")
    assert "someone" not in (tmp_path / "model" / "config.json").read_text()
    model, processor = gp.load(tmp_path / "model", dtype="float32")
    scene, question = next(iter(draw_tests(pictures, "held-out", 1)))
    asked, answered = words.turn(question)
    said = prompt_for(processor, grounding_of(model), "rec", question.text)
    given = processor(images=[Image.fromarray(scene.image)], text=[said], return_tensors="pt")
    wanted = [*words.before_image(), *[words.image] * GRID * GRID, *asked]
    assert given["input_ids"][0].tolist() == wanted
    assert_near(given["pixel_values"], to_pixels(torch.from_numpy(scene.image)[None]), 1e-4)
    box: Any = box_codec(processor, grounding_of(model), IMAGE_SIZE, IMAGE_SIZE).decode(
        words.tokenizer.decode(answered)
    )
    assert iou(Box(*(edge * IMAGE_SIZE for edge in box)), Box(*(question.box or ()))) > 0.85


def test_exported_tests_are_read_and_pruned(words, pictures, tmp_path):
    save_tests(pictures, tmp_path / "data", dict.fromkeys(TEST_SIZES, 4))
    for split in TEST_SIZES:
        samples = open_data(str(tmp_path / "data" / f"{split}.jsonl")).samples
        assert [sample.kind for sample in samples] == ["rec"] * 4 + ["vqa"] * 4
        assert all(sample.image.size == (IMAGE_SIZE, IMAGE_SIZE) for sample in samples)
        assert all(sample.box not in (sample.others or [sample.box]) for sample in samples if sample.kind == "rec")
        for said in (f"{sample.text} {sample.answer}" for sample in samples):
            named = any(name in said or plural(name) in said for name in HELD_OUT_NAMES)
            assert named == (split == "novel-name")
    save_model(assemble(learner_of(words), words), words, tmp_path / "model")
    model, processor = gp.load(tmp_path / "model")
    image = Image.fromarray(make_scene(pictures, TEST_SEED, "held-out").image)
    given = processor(images=[image], text=[f"{IMAGE}\nlocate the owl"], return_tensors="pt")
    short = gp.prune_inputs(model, dict(given), gp.ClsVisual(keep=0.5))
    assert len(short.kept[0]) == round(GRID * GRID / 2 + 0.01)
