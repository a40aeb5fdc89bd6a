"""Training: packed rows against the stock model, interruption and resumption, what is exported."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, CLIPModel, LlavaForConditionalGeneration, LlavaProcessor

from groundprune.pocket.card import card_text
from groundprune.pocket.evaluate import answers
from groundprune.pocket.model import make_llava
from groundprune.pocket.samples import eval_samples
from groundprune.pocket.scenes import GRID, HELD_OUT_PAIRS, TRAIN_SEEDS
from groundprune.pocket.training import train
from groundprune.pocket.training.language import LanguageBatches, LanguagePlan
from groundprune.pocket.training.packed_model import PackedLlava
from groundprune.pocket.training.runtime import SEEDS_PER_RUN, Workers, load_state, scene_seed
from groundprune.pocket.training.tower import Phrases, make_clip, to_pixels
from groundprune.pocket.vocabulary import IMAGE, LM_IDS
from support.closeness import assert_near

VISUAL = GRID * GRID


@pytest.fixture(scope="module")
def llava():
    """Weights large enough that attention is not uniform: with uniform attention equality would prove little."""
    torch.manual_seed(0)
    model = make_llava(make_clip()).eval()
    for name, weight in model.named_parameters():
        if weight.ndim > 1 and "position" not in name:
            torch.nn.init.normal_(weight, std=1.4 / np.sqrt(weight[0].numel()))
    return model


@pytest.mark.parametrize("step", range(4))
@torch.no_grad()
def test_packed_logits_are_the_stock_model_s(llava, step):
    batch = LanguageBatches(LanguagePlan(0, batch=2), Workers())(step)
    pixels = to_pixels(batch.pop("images"))
    del batch["predicts"], batch["questions"]
    packed = PackedLlava(llava)
    features = llava.model.vision_tower(pixels).last_hidden_state[:, 1:]
    logits = packed.logits(packed(features, **batch))
    for row in range(2):
        prefix = batch["prefix"][row, batch["prefix_pad"][row] :]
        for number in batch["block"][row].unique()[[1, -1]]:  # the first is the padding
            own = batch["block"][row] == number
            ids = torch.cat([prefix, torch.full((VISUAL,), LM_IDS[IMAGE]), batch["tokens"][row][own]])[None]
            position = torch.arange(ids.shape[1])[None].clone()
            position[:, len(prefix) :] += batch["gap"][row]
            stock = llava(
                input_ids=ids, pixel_values=pixels[row : row + 1], position_ids=position,
                attention_mask=torch.ones_like(ids),
            ).logits[0, len(prefix) + VISUAL :]  # fmt: skip
            assert_near(logits[row][own], stock)


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
    start = make_llava(make_clip()).state_dict()
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
    said = answers(model, processor, list(eval_samples(2, 2)))
    assert len(said) == 4
    assert all(isinstance(text, str) for text in said)

    clip, tokenizer = CLIPModel.from_pretrained(folder / "clip"), AutoTokenizer.from_pretrained(folder / "clip")
    for ours, theirs in zip(model.model.vision_tower.parameters(), clip.vision_model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    ids = tokenizer(["the star", "what color is the large star?"], padding=True, return_tensors="pt").input_ids
    assert clip.text_model(input_ids=ids).pooler_output.shape == (2, 96)

    card = json.loads((folder / "card.json").read_text())
    assert card["accuracy"]["held-out"]["rec"]["asked"] == 4
    assert "novel-pair" in card_text(card)
    assert json.loads((folder / "grounding.json").read_text())["rec_prompt"] == "locate {expression}"
