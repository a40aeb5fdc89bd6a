"""Scenes of named pictures: what is held out, what is asked, and how the language model reads it."""

from typing import Any

import numpy as np
import pytest

from groundprune.boxes.codecs import make_codec
from support.smol import TEST_SEED
from tools.smol.names import HELD_OUT_NAMES, named, plural, trained_names
from tools.smol.packing import Batches, Rows
from tools.smol.pictures import Pictures
from tools.smol.questions import LARGER, MARGIN, REC_SHARES, VQA_SHARES, draw_question
from tools.smol.scenes import GRID, IMAGE_SIZE, SPLITS, TRAIN, background, make_scene
from tools.smol.words import BINS, FORMS, box_text


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
    order = {
        "leftmost": lambda o: o.center[0], "rightmost": lambda o: -o.center[0], "topmost": lambda o: o.center[1],
        "bottommost": lambda o: -o.center[1], "smallest": lambda o: o.size, "largest": lambda o: -o.size,
    }  # fmt: skip
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
        read: Any = codec.decode(f"a box {said}")
        assert max(abs(a * IMAGE_SIZE - b) for a, b in zip(read, box, strict=True)) <= 1.01 * IMAGE_SIZE / BINS
        assert [i - s for i, s in zip(ids, [words.first_bins[f] for f in (0, 1, 1, 2)], strict=True)] == [
            round(float(number.strip("[] ,")) * BINS) for number in said.split(",")
        ]
    assert all(len(words.ids(word)) == 1 for form in FORMS for word in form)


def test_a_turn_reads_as_the_chat_template_says_it(words, pictures):
    scene = make_scene(pictures, 3)
    question: Any = draw_question(np.random.default_rng(0), scene.objects, "rec")
    asked, answered = words.turn(question)
    said = words.tokenizer.decode([*words.before_image("S"), words.image, *asked, *answered])
    assert said == (
        f"<|im_start|>system\nS<|im_end|>\n<|im_start|>user\n<image>\nlocate {question.text}<|im_end|>\n"
        f"<|im_start|>assistant\n{box_text(question.box)}<|im_end|>"
    )
    assert words.ids(said) == [*words.before_image("S"), words.image, *asked, *answered]


def test_rows_predict_what_stands_next(words, pictures):
    batch = Batches(Rows(0, 3, 4, 4, 2, 128), words, pictures)(1)
    row, column, token = batch["predicts"]
    ends = token == words.end
    assert batch["tokens"].flatten(1)[row[~ends], column[~ends] + 1].equal(token[~ends])
    assert ends.sum() == len(batch["vqa"]) == batch["evidence"].shape[0]
    assert (batch["first"] + batch["count"])[:-1].equal(batch["first"][1:])
    assert batch["prefix"][:, -1].unique().tolist() == words.ids("\n")
    assert batch["evidence"].any(1).float().mean() > 0.8
