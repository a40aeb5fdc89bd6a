"""Questions: answers derived again, by brute force, from the words of the question alone."""

from itertools import pairwise

import numpy as np
import pytest

from groundprune.pocket.questions import MARGIN, PLURAL, REC_SHARES, VQA_SHARES, draw_question
from groundprune.pocket.samples import SPLITS, eval_samples
from groundprune.pocket.scenes import COLORS, HELD_OUT_PAIRS, SHAPES, SIZES, make_scene

SINGULAR = {plural: noun for noun, plural in PLURAL.items()}
SIDES = {
    "left": lambda a, b: b.center[0] - a.center[0],
    "right": lambda a, b: a.center[0] - b.center[0],
    "above": lambda a, b: b.center[1] - a.center[1],
    "below": lambda a, b: a.center[1] - b.center[1],
}
EXTREMES = {"leftmost": (0, min), "rightmost": (0, max), "topmost": (1, min), "bottommost": (1, max)}


def described(words, objects):
    """Indices of the objects that every known word fits."""
    words = {SINGULAR.get(word, word) for word in words}
    return [
        i for i, o in enumerate(objects)
        if words & set(SHAPES) <= {o.shape} and words & set(COLORS) <= {o.color} and words & set(SIZES) <= {o.size}
    ]  # fmt: skip


def the_one(words, objects):
    found = described(words, objects)
    assert len(found) == 1, words
    return found[0]


def split_at_relation(words):
    at = next(i for i, word in enumerate(words) if word in SIDES)
    return words[:at], words[at], words[at + 1 :]


def solve(text, kind, objects):
    words = text.split()
    if words[:2] == ["how", "many"]:
        return str(len(described(words, objects)))
    if words[:2] == ["is", "there"]:
        return "yes" if described(words, objects) else "no"
    if "small or large" in text:
        return objects[the_one(words[:-3], objects)].size
    if words[0] == "what":
        return getattr(objects[the_one(words, objects)], words[1])
    if extreme := next((word for word in words if word in EXTREMES), None):
        axis, choose = EXTREMES[extreme]
        group = described(words, objects)
        best = choose(group, key=lambda i: objects[i].center[axis])
        assert all(abs(objects[i].center[axis] - objects[best].center[axis]) >= MARGIN for i in group if i != best)
        return objects[best].box
    if any(word in SIDES for word in words):
        sought, relation, rest = split_at_relation(words)
        anchor = the_one(rest, objects)
        group = [i for i in described(sought, objects) if i != anchor]
        distances = {i: SIDES[relation](objects[i], objects[anchor]) for i in group}
        assert all(abs(d) >= MARGIN for d in distances.values())
        if kind == "vqa":
            return "yes" if distances[the_one(sought, objects)] > 0 else "no"
        right = [i for i, d in distances.items() if d > 0]
        assert len(right) == 1
        return objects[right[0]].box
    return objects[the_one(words, objects)].box


@pytest.mark.parametrize("kind", ["rec", "vqa"])
@pytest.mark.parametrize("novel", [{}, {"novel_template": True}, {"focus": 0}])
def test_every_answer_follows_from_the_words(kind, novel):
    for seed in range(120):
        scene, rng = make_scene(seed, novel_pair="focus" in novel), np.random.default_rng(seed)
        for type in REC_SHARES if kind == "rec" else VQA_SHARES:
            question = draw_question(rng, scene.objects, kind, type, **novel)
            if question is not None:
                assert (question.kind, question.type) == (kind, type)
                assert solve(question.text, kind, scene.objects) == (question.box or question.answer), question


def test_training_never_names_a_held_out_pair():
    for seed in range(300):
        scene, rng = make_scene(seed), np.random.default_rng(seed)
        for kind in ("rec", "vqa") * 4:
            question = draw_question(rng, scene.objects, kind)
            words = question.text.split() if question else []
            assert not any((first, second) in HELD_OUT_PAIRS for first, second in pairwise(words))


def test_yes_and_no_are_about_as_frequent():
    rng, said = np.random.default_rng(0), {"existence": [], "spatial": []}
    for seed in range(400):
        for type, answers in said.items():
            if question := draw_question(rng, make_scene(seed).objects, "vqa", type):
                answers.append(question.answer == "yes")
    for answers in said.values():
        assert 0.4 < np.mean(answers) < 0.6


@pytest.mark.parametrize("split", SPLITS)
def test_samples_are_a_function_of_seed_and_split(split):
    first, again = list(eval_samples(6, 6, 3, split)), list(eval_samples(6, 6, 3, split))
    assert [(s.id, s.text, s.box, s.answer) for s in first] == [(s.id, s.text, s.box, s.answer) for s in again]
    assert [s.kind for s in first] == ["rec"] * 6 + ["vqa"] * 6
    assert len({s.id for s in first}) == 12
    assert all((s.box is None) == (s.kind == "vqa") == (s.answer is not None) for s in first)
    assert first[0].image.tobytes() == again[0].image.tobytes()


def test_an_unknown_split_is_named():
    with pytest.raises(ValueError, match="no split 'test'"):
        next(eval_samples(1, 1, 0, "test"))
