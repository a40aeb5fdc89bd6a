"""Training: packed rows against the stock model, interruption and resumption, what is exported."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, CLIPModel, LlavaForConditionalGeneration, LlavaProcessor

import groundprune as gp
from groundprune.answers import answer
from groundprune.boxes import Box, iou
from groundprune.evaluation import compare
from groundprune.pocket import checkpoint_path
from groundprune.pocket.samples import eval_samples
from groundprune.pocket.scenes import GRID, HELD_OUT_PAIRS, TRAIN_SEEDS
from support.closeness import assert_near
from tools.pocket_training import train
from tools.pocket_training.__main__ import main
from tools.pocket_training.card import card_text
from tools.pocket_training.language import AnswerLoss, LanguageBatches, LanguagePlan
from tools.pocket_training.model import make_llava
from tools.pocket_training.packed_model import packed_hidden
from tools.pocket_training.runtime import SEEDS_PER_RUN, Workers, load_state, scene_seed
from tools.pocket_training.tower import make_clip, to_pixels
from tools.pocket_training.tower_data import Phrases, TowerPlan
from tools.pocket_training.vocabulary import IMAGE, LM_IDS

VISUAL = GRID * GRID
TWIN = Path(__file__).parents[2] / "results" / "pocket-seed0"


@pytest.fixture(scope="module")
def llava():
    """Weights large enough that attention is not uniform: with uniform attention equality would prove little."""
    torch.manual_seed(0)
    model = make_llava(make_clip(TowerPlan(0))).eval()
    for name, weight in model.named_parameters():
        if weight.ndim > 1 and "position" not in name:
            torch.nn.init.normal_(weight, std=1.4 / np.sqrt(weight[0].numel()))
    return model


def apart(llava, batch, pixels, row, number):
    """Logits of one block of questions, alone behind its prefix and image in the stock model: [tokens, V]."""
    prefix = batch["prefix"][row, batch["prefix_pad"][row] :]
    asked = batch["tokens"][row][batch["block"][row] == number]
    ids = torch.cat([prefix, torch.full((VISUAL,), LM_IDS[IMAGE]), asked])[None]
    position = torch.arange(ids.shape[1])[None].clone()
    position[:, len(prefix) :] += batch["gap"][row]
    given = {"pixel_values": pixels[row : row + 1], "attention_mask": torch.ones_like(ids)}
    return llava(input_ids=ids, position_ids=position, **given).logits[0, len(prefix) + VISUAL :]


def seen(llava, pixels):
    """The decoder, and the visual tokens that it reads."""
    features = llava.model.vision_tower(pixels).last_hidden_state[:, 1:]
    return llava.model.language_model, llava.model.multi_modal_projector(features)


def gradients(llava, loss):
    """Of all trained weights, in one vector."""
    llava.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in llava.parameters() if p.requires_grad])


@pytest.mark.parametrize("step", range(4))
def test_loss_and_gradients_are_those_of_each_question_alone(llava, step):
    """Both prefix lengths, gaps, padding and second turns come up in these steps."""
    batch = LanguageBatches(LanguagePlan(0, batch=2), Workers())(step)
    pixels, (row, column, token) = to_pixels(batch.pop("images")), batch.pop("predicts")
    del batch["questions"]
    loss_of = AnswerLoss("cpu")
    packed = llava.lm_head(packed_hidden(*seen(llava, pixels), **batch)[0][row, column])
    loss, _ = loss_of(packed, token)
    gradient = gradients(llava, loss)

    alone = torch.zeros(*batch["tokens"].shape, packed.shape[-1])
    for i, numbers in enumerate(batch["block"]):
        for number in numbers[numbers >= 0].unique():
            alone[i, numbers == number] = apart(llava, batch, pixels, i, number)
    alone = alone[row, column]
    expected, _ = loss_of(alone, token)
    assert_near(packed, alone)
    assert_near(loss, expected)
    other = gradients(llava, expected)
    assert float((gradient - other).norm()) < 1e-5 * float(other.norm())


def test_these_gradients_tell_one_id_or_one_key_too_many(llava):
    """The control: a question one id further on, and one that sees its neighbour."""
    batch = LanguageBatches(LanguagePlan(0, batch=2), Workers())(0)
    pixels, (row, column, token) = to_pixels(batch.pop("images")), batch.pop("predicts")
    del batch["questions"]

    def gradient(**changed):
        hidden, *_ = packed_hidden(*seen(llava, pixels), **{**batch, **changed})
        return gradients(llava, AnswerLoss("cpu")(llava.lm_head(hidden[row, column]), token)[0])

    right, block = gradient(), batch["block"]
    for wrong in (gradient(offset=batch["offset"] + 1), gradient(block=torch.where(block == 1, 0, block))):
        assert float((right - wrong).norm()) > 1e-3 * float(right.norm())


def test_processes_share_a_batch_and_change_nothing():
    plan = LanguagePlan(0, batch=4)
    whole = LanguageBatches(plan, Workers())(3)
    halves = [LanguageBatches(plan, Workers(rank, 2))(3) for rank in range(2)]
    for name in ("images", "tokens", "prefix", "gap"):
        assert torch.equal(whole[name], torch.cat([half[name] for half in halves]))


def test_a_batch_that_cannot_be_split_is_refused():
    with pytest.raises(ValueError, match="among 3 processes"):
        Workers(0, 3).share(40)


def test_stages_and_seeds_share_no_scene():
    last = SEEDS_PER_RUN // 2 - 1
    assert len({scene_seed(seed, stage, i) for seed in (0, 1) for stage in (0, 1) for i in (0, last)}) == 8
    assert all(scene_seed(seed, 1, last) in TRAIN_SEEDS for seed in range(50))
    with pytest.raises(ValueError, match="no scene"):
        scene_seed(0, 0, last + 1)


def test_no_phrase_of_the_tower_names_a_held_out_pair():
    texts = Phrases().texts
    assert not [text for text in texts for color, shape in HELD_OUT_PAIRS if color in text and shape in text]
    assert "the large purple star" in texts


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A quick run without a break, and one that was broken off in both stages."""
    whole, broken = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("broken")
    train(seed=5, work=whole, quick=True)
    for stop in (2, 4, 6):
        assert train(seed=5, work=broken, quick=True, stop_after=stop) is None or stop == 6
    train(seed=5, work=broken, quick=True, stop_after=3)
    train(seed=5, work=broken, quick=True)
    return whole, broken


@pytest.mark.parametrize("stage", ["tower", "language"])
def test_a_resumed_run_is_the_same_run(runs, stage):
    whole, broken = (load_state(folder / f"{stage}.pt")["model"] for folder in runs)
    assert whole.keys() == broken.keys()
    for name, weight in whole.items():
        assert_near(weight, broken[name])


def test_training_moves_the_model_but_not_its_tower(runs):
    tower = load_state(runs[0] / "tower.pt")["model"]
    language = load_state(runs[0] / "language.pt")["model"]
    start = make_llava(make_clip(TowerPlan(0))).state_dict()
    assert not tower["clip.vision_model.embeddings.position_embedding.weight"].any()
    for name, weight in language.items():
        if "vision_tower" in name:
            assert torch.equal(weight, tower["clip.vision_model." + name.split("vision_tower.")[1]])
    assert not torch.equal(
        start["model.language_model.embed_tokens.weight"], language["model.language_model.embed_tokens.weight"]
    )


def test_the_export_loads_with_stock_classes(runs):
    folder = runs[0] / "checkpoint"
    model = LlavaForConditionalGeneration.from_pretrained(folder).eval()
    processor = LlavaProcessor.from_pretrained(folder)
    sample = next(eval_samples(1, 0))
    turn = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": f"locate {sample.text}"}]}]
    inputs = processor(
        sample.image, processor.apply_chat_template(turn, add_generation_prompt=True), return_tensors="pt"
    )
    assert model.generate(**inputs, max_new_tokens=4).shape[1] > inputs["input_ids"].shape[1]

    clip, tokenizer = CLIPModel.from_pretrained(folder / "clip"), AutoTokenizer.from_pretrained(folder / "clip")
    for ours, theirs in zip(model.model.vision_tower.parameters(), clip.vision_model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    ids = tokenizer(["the star", "what color is the large star?"], padding=True, return_tensors="pt").input_ids
    assert clip.text_model(input_ids=ids).pooler_output.shape == (2, 96)

    card = json.loads((folder / "card.json").read_text())
    assert card["accuracy"]["held-out"]["rec"]["asked"] == 4
    assert card["accuracy"]["held-out"].keys() > {"rec", "vqa"}
    assert (folder / "CARD.md").read_text() == card_text(card)
    assert json.loads((folder / "grounding.json").read_text())["rec_prompt"] == "locate {expression}"


def test_accuracy_is_that_of_compare(runs):
    folder = runs[0] / "checkpoint"
    summary = compare(folder, 4, pruners=[], positions=["preserved"], split="novel-pair")
    card = json.loads((folder / "card.json").read_text())["accuracy"]["novel-pair"]
    for kind, task in (("rec", summary.settings[0].rec), ("vqa", summary.settings[0].vqa)):
        assert (card[kind]["right"], card[kind]["asked"]) == (task.total.correct, task.total.n)
        assert sum(entry["asked"] for name, entry in card.items() if name.startswith(f"{kind}/")) == 4


@pytest.mark.parametrize("folder", [checkpoint_path(), TWIN])
def test_a_stored_card_says_what_its_numbers_say(folder):
    assert (folder / "CARD.md").read_text() == card_text(json.loads((folder / "card.json").read_text()))


def test_the_twin_is_loaded_by_its_folder():
    model, processor = gp.load(TWIN)
    other, _ = gp.load("pocket")
    sample = next(eval_samples(1, 0))
    found = answer(model, processor, sample.image, sample.text)
    assert iou(found.box, Box(*sample.box)) > 0.5
    assert not torch.equal(model.lm_head.weight, other.lm_head.weight)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--seed", "50"], "--seed must be 0 to 49"),
        (["--seed", "x"], "invalid int value: 'x'"),
        (["--processes", "0"], "--processes must be a whole number of at least 1 (got 0)"),
        (["--processes", "3"], "among 3 processes"),
        (["--out", "photo.png"], "photo.png: is a file, give a folder"),
        (["--device", "abacus"], "device 'abacus' cannot be used"),
        (["--fast"], "unrecognized arguments: --fast"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(words, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photo.png").touch()
    assert main(["--quick", "--work", "work", *words]) == 2
    out, err = capsys.readouterr()
    assert says in err
    assert err.count("\n") == 1
    assert out == ""
    assert not (tmp_path / "work").exists()
