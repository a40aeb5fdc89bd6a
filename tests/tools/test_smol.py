"""The recipe behind SmolLM2: scenes of named pictures, what is held out, and a training that can be killed."""

import json

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from groundprune.boxes.codecs import make_codec
from groundprune.errors import GroundPruneError
from support.closeness import assert_apart, assert_near
from tools.pocket_training.runtime import load_state
from tools.pocket_training.tower import to_pixels
from tools.smol.assembly import assemble
from tools.smol.language import TEXT, LanguagePlan, Lesson, train_language
from tools.smol.learner import Learner
from tools.smol.names import HELD_OUT_NAMES, named, plural, trained_names
from tools.smol.packing import Batches, Rows
from tools.smol.pictures import HELD_OUT_SET, Pictures
from tools.smol.questions import LARGER, MARGIN, REC_SHARES, VQA_SHARES, draw_question
from tools.smol.scenes import GRID, IMAGE_SIZE, SPLITS, TRAIN, background, make_scene
from tools.smol.tower import Seer, TowerPlan, load_seer, train_tower
from tools.smol.words import BINS, FORMS, Words, box_text

TEST_SEED = 1_002_000_000
TOWER = TowerPlan(steps=4, batch=2, width=64, layers=1, warmup=1)
LANGUAGE = LanguagePlan(steps=4, batch=2, rec=3, vqa=3, length=256, warmup=1, checked=2)


@pytest.fixture(scope="module")
def pictures():
    """Of one grey level each, told apart by it: trained sets are darker than 100, the held-out set is lighter."""
    rng = np.random.default_rng(0)

    def sprite(level):
        image = np.full((*rng.integers(30, 96, 2), 4), level, np.uint8)
        image[:, :, 3] = 255
        return image

    sprites = {
        each.name: {"a": [sprite(40), sprite(41)], "b": [sprite(60)], HELD_OUT_SET: [sprite(200)]} for each in named()
    }
    return Pictures(sprites, [np.full((300, 400, 3), 5 * i, np.uint8) for i in range(8)])


@pytest.fixture(scope="module")
def tokenizer():
    """Bytes, and the chat's marks."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    marks = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    inner = Tokenizer(models.BPE({word: i for i, word in enumerate(marks + alphabet)}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="<|im_end|>", extra_special_tokens={"start": "<|im_start|>"}
    )


@pytest.fixture(scope="module")
def words(tokenizer):
    return Words(tokenizer)


def config(words):
    return LlamaConfig(
        hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=words.known, tie_word_embeddings=True, head_dim=16,
    )  # fmt: skip


def decoder(words):
    torch.manual_seed(1)
    return LlamaForCausalLM(config(words)).model


def train_both(folder, pictures, words, stops=(None, None)):
    model = decoder(words)
    embeddings = model.embed_tokens.weight.detach().clone()
    for stop in (stops[0], None):
        train_tower(TOWER, pictures, words, embeddings, config(words), folder / "tower.pt", stop_after=stop)
    for stop in (stops[1], None):
        seer = load_seer(folder / "tower.pt", TOWER, config(words))
        train_language(LANGUAGE, pictures, words, decoder(words), seer, folder / "language.pt", stop_after=stop)


def test_a_scene_is_a_function_of_its_seed(pictures):
    for split, seed in ((TRAIN, 5), ("held-out", TEST_SEED)):
        one, two, other = (make_scene(pictures, s, split) for s in (seed, seed, seed + 1))
        assert np.array_equal(one.image, two.image)
        assert one.objects == two.objects
        assert not np.array_equal(one.image, other.image)


def test_boxes_are_tight_and_apart(pictures):
    for seed in range(30):
        scene = make_scene(pictures, seed)
        filled = np.zeros((IMAGE_SIZE, IMAGE_SIZE), int)
        for index, obj in enumerate(scene.objects):
            left, top, right, bottom = obj.box
            assert 0 <= left < right <= IMAGE_SIZE
            assert 0 <= top < bottom <= IMAGE_SIZE
            filled[top:bottom, left:right] += 1
            # The fixture's sprites fill their boxes: one colour inside.
            assert np.ptp(scene.image[top:bottom, left:right].reshape(-1, 3), 0).max() <= 1
            shown = scene.owner.reshape(GRID, GRID) == index
            rows, columns = np.nonzero(shown)
            assert len(rows)
            step = IMAGE_SIZE // GRID
            assert (rows * step < bottom).all()
            assert ((columns + 1) * step > left).all()
        assert filled.max() == 1


def test_what_is_held_out_is_never_trained_on(pictures):
    shown, light = set(), set()
    for seed in range(150):
        for split in (TRAIN, *SPLITS):
            scene = make_scene(pictures, seed if split == TRAIN else TEST_SEED + seed, split)
            names = {obj.name for obj in scene.objects}
            if split == TRAIN:
                shown |= names
            assert bool(names & HELD_OUT_NAMES) == (split == "novel-name")
            left, top, *_ = scene.objects[0].box
            light.add((split == "novel-picture", bool(scene.image[top, left].mean() > 110)))
    assert len(shown) > 100
    assert light == {(True, True), (False, False)}
    with pytest.raises(ValueError, match="not one of split"):
        make_scene(pictures, 5, "held-out")
    with pytest.raises(ValueError, match="not one of split"):
        make_scene(pictures, TEST_SEED, TRAIN)


def test_photographs_of_tests_are_others():
    """Every fourth photograph is white and all others are black."""
    flat = [np.full((300, 400, 3), 255 * (i % 4 == 0), np.uint8) for i in range(8)]
    pictures = Pictures({}, flat)
    for trained in (True, False):
        rng, levels = np.random.default_rng(1), []
        for _ in range(60):
            shown = background(rng, pictures, trained)
            if np.ptp(shown) == 0:
                levels.append(shown[0, 0, 0] > 100)
        assert set(levels) == {not trained}


@pytest.mark.parametrize("type", [*REC_SHARES, *VQA_SHARES])
def test_questions_have_one_right_answer(pictures, type):
    kind, asked = "rec" if type in REC_SHARES else "vqa", set()
    for seed in range(60):
        objects, rng = make_scene(pictures, seed).objects, np.random.default_rng(seed)
        question = draw_question(rng, objects, kind, type)
        if question is None:
            continue
        asked.add(question.answer)
        if kind == "rec":
            assert [o.box for o in objects if o.box == question.box and fits(question.text, o, objects)] == [
                question.box
            ]
            assert sum(fits(question.text, o, objects) for o in objects) == 1
        else:
            assert reply(question, objects) == question.answer
    assert len(asked) > 1 or kind == "rec"
    assert asked


def fits(text, obj, objects):
    """Whether the words of an expression fit an object, read anew from the words."""
    text = text.removeprefix("the ")
    for word, (axis, sign) in {"left of": (0, -1), "right of": (0, 1), "above": (1, -1), "below": (1, 1)}.items():
        if f" {word} the " in text:
            name, anchor = text.split(f" {word} the ")
            (other,) = [o for o in objects if o.name == anchor and (o is not obj or name != anchor)]
            return obj.name == name and sign * (obj.center[axis] - other.center[axis]) >= MARGIN
    order = {"leftmost": lambda o: o.center[0], "rightmost": lambda o: -o.center[0], "topmost": lambda o: o.center[1],
             "bottommost": lambda o: -o.center[1], "smallest": lambda o: o.size, "largest": lambda o: -o.size}  # fmt: skip
    first, _, name = text.partition(" ")
    if first not in order:
        return obj.name == text
    group = [o for o in objects if name in ("thing", o.name)]
    best, second = sorted(group, key=order[first])[:2]
    if "est" in first:
        assert max(best.size, second.size) >= LARGER * min(best.size, second.size)
    return obj is best


def reply(question, objects):
    """The answer to a question in words, found anew."""
    words, names = question.text.rstrip("?"), [obj.name for obj in objects]
    if question.type == "existence":
        return "yes" if words.removeprefix("is there ").split(" ", 1)[1] in names else "no"
    if question.type == "count":
        wanted = words.removeprefix("how many ").removesuffix(" are there")
        return str(sum(plural(name) == wanted for name in names))
    if question.given:
        return next(obj.name for obj in objects if obj.box == question.given)
    if question.type == "which":
        return next(o.name for o in objects if fits(words.removeprefix("what is "), o, objects))
    name = next(n for n in sorted(names, key=len, reverse=True) if words.startswith(f"is the {n} "))
    (obj,) = [o for o in objects if o.name == name]
    if question.type == "spatial":
        return "yes" if fits(words.removeprefix("is "), obj, objects) else "no"
    axis, sides = (0, ("left", "right")) if "left" in words else (1, ("top", "bottom"))
    return sides[obj.center[axis] > IMAGE_SIZE / 2]


def test_names_are_said_in_one_way():
    names = [each.name for each in named()]
    assert len(set(names)) == len(names) > 200
    assert set(names) == {*trained_names(), *HELD_OUT_NAMES}
    plurals = [plural(name) for name in names]
    assert len(set(plurals)) == len(names)
    assert [plural(n) for n in ("panda", "fox", "goose", "ladybug", "sheep", "church")] == [
        "pandas", "foxes", "geese", "ladybugs", "sheep", "churches",
    ]  # fmt: skip


def test_a_box_is_four_tokens_of_llavas_language(words):
    codec, rng = make_codec("llava"), np.random.default_rng(0)
    for _ in range(50):
        left, top = rng.integers(0, IMAGE_SIZE - 20, 2)
        box = (
            left,
            top,
            left + rng.integers(10, IMAGE_SIZE - left + 1),
            top + rng.integers(10, IMAGE_SIZE - top + 1),
        )
        said = box_text(box)
        ids = words.ids(said)
        assert len(ids) == 4
        assert words.tokenizer.decode(ids) == said
        read = codec.decode(f"a box {said}")
        assert max(abs(a * IMAGE_SIZE - b) for a, b in zip(read, box, strict=True)) <= 1.01 * IMAGE_SIZE / BINS
        assert [i - s for i, s in zip(ids, [words.first_bins[f] for f in (0, 1, 1, 2)], strict=True)] == [
            round(float(number.strip("[] ,")) * BINS) for number in said.split(",")
        ]
    assert all(len(words.ids(word)) == 1 for form in FORMS for word in form)


def test_a_turn_reads_as_the_chat_template_says_it(words, pictures):
    scene = make_scene(pictures, 3)
    question = draw_question(np.random.default_rng(0), scene.objects, "rec")
    asked, answered = words.turn(question)
    said = words.tokenizer.decode([*words.before_image("S"), words.image, *asked, *answered])
    assert said == (
        f"<|im_start|>system\nS<|im_end|>\n<|im_start|>user\n<image>\nlocate {question.text}<|im_end|>\n"
        f"<|im_start|>assistant\n{box_text(question.box)}<|im_end|>"
    )
    assert words.ids(said) == [*words.before_image("S"), words.image, *asked, *answered]


def test_rows_predict_what_stands_next(words, pictures):
    batch = Batches(Rows(0, 3, 4, 4, 256), words, pictures)(1)
    row, column, token = batch["predicts"]
    ends = token == words.end
    assert batch["tokens"][row[~ends], column[~ends] + 1].equal(token[~ends])
    assert ends.sum() == len(batch["vqa"]) == batch["evidence"].shape[0]
    assert (batch["first"] + batch["count"])[:-1].equal(batch["first"][1:])
    assert batch["prefix"][:, -1].unique().tolist() == words.ids("\n")
    assert batch["evidence"].any(1).float().mean() > 0.8


def learner_of(words, narrow=False):
    model = decoder(words)
    added = words.grown(model.embed_tokens.weight.detach())
    learner = Learner(Seer(TOWER, config(words)), model, added, narrow)
    for parameter in learner.parameters():
        if parameter.ndim > 1 and parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=1.4 / parameter.shape[-1] ** 0.5)
    return learner


def test_packed_questions_get_the_logits_of_the_stock_model(words, pictures):
    """Each question of a row, alone behind its prefix and image in a stock LLaVA that was put together."""
    torch.manual_seed(0)
    learner = learner_of(words)
    batch = Batches(Rows(0, 1, 2, 2, 256), words, pictures)(0)
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
        mine = batch["block"][0] == number
        ids = torch.cat([prefix, torch.full((GRID * GRID,), words.image), batch["tokens"][0][mine]])[None]
        with torch.no_grad():
            logits = model(input_ids=ids, pixel_values=to_pixels(batch["images"])).logits[0]
        here = mine[column].nonzero()[:, 0]
        place = len(prefix) + GRID * GRID + batch["offset"][0][column[here]]
        assert_near(packed[here], logits[place], 1e-4)
        assert_apart(packed[here], logits[place - 1], 1e-2)


def test_greedy_answers_are_those_of_generate(words, pictures):
    torch.manual_seed(0)
    learner = learner_of(words)
    batch = Batches(Rows(0, 1, 1, 1, 256), words, pictures)(0)
    batch["gap"][:] = 0
    found = Lesson(learner, words, 0.5, "cpu").answers(batch)
    model = assemble(learner, words)
    prefix = batch["prefix"][0, int(batch["prefix_pad"][0]) :]
    for number, (said, (_, column)) in enumerate(zip(found, batch["asked"].T.tolist(), strict=True)):
        start = int((batch["block"][0] == number).nonzero()[0])
        asked = batch["tokens"][0, start : column + 1]
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
    begun = learner_of(words).decoder.state_dict()
    assert not any(name.startswith("seer.tower") for name in one["model"])
    assert begun.keys() >= {name.removeprefix("decoder.") for name in one["model"] if name.startswith("decoder.")}


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
        train_tower(
            TowerPlan(**{**vars(TOWER), "edges": 2.0}),
            pictures,
            words,
            embeddings,
            config(words),
            tmp_path / "tower.pt",
        )
    with pytest.raises(GroundPruneError, match="run the stage tower first"):
        load_seer(tmp_path / "tower.pt", TOWER, config(words))
