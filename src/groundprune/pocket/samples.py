"""Streams of evaluation samples: scenes that no training run has seen, with one question each."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from .questions import REC_SHARES, VQA_SHARES, Question, draw_question
from .scenes import TEST_SEEDS, VALIDATION_SEEDS, Scene, make_scene

# held-out: new scenes. novel-pair: the question is about an object whose shape and colour were never seen together.
# novel-template: a way to ask that was never trained, all of its words were.
SPLITS = ("held-out", "novel-pair", "novel-template", "validation")
NOVEL_TEMPLATE_TYPES = {"rec": ("relation",), "vqa": ("existence",)}


@dataclass(frozen=True)
class PocketSample:
    """One evaluation sample: exactly one of `box` and `answer` is given."""

    id: str
    image: Image.Image
    kind: str  # "rec" | "vqa"
    type: str
    text: str
    box: tuple[int, int, int, int] | None  # pixels, right and bottom exclusive
    answer: str | None
    others: tuple[tuple[int, int, int, int], ...] = ()  # boxes of the objects that it is not about
    mask: np.ndarray | None = None  # bool [144, 144], of what an expression refers to


def eval_samples(n_rec: int, n_vqa: int, seed: int = 0, split: str = "held-out") -> Iterator[PocketSample]:
    """Referring expressions, then questions, a scene of its own for each; a pure function of the arguments."""
    if split not in SPLITS:
        raise ValueError(f"there is no split {split!r}; there are {', '.join(SPLITS)}")
    for kind, wanted in (("rec", n_rec), ("vqa", n_vqa)):
        for index in range(wanted):
            yield _sample(kind, index, seed, split)


def _sample(kind: str, index: int, seed: int, split: str) -> PocketSample:
    rng = np.random.default_rng([seed, SPLITS.index(split), ("rec", "vqa").index(kind), index])
    seeds = VALIDATION_SEEDS if split == "validation" else TEST_SEEDS
    wanted = _question_type(kind, rng, split)
    while True:  # until a scene yields a question of the type that is due
        scene = make_scene(seeds[int(rng.integers(len(seeds)))], novel_pair=split == "novel-pair")
        question = draw_question(
            rng, scene.objects, kind, wanted,
            focus=0 if split == "novel-pair" else None, novel_template=split == "novel-template",
        )  # fmt: skip
        if question is not None:
            return _as_sample(f"{split}-{seed}-{kind}-{index:05d}", scene, question)


def _question_type(kind: str, rng, split: str) -> str:
    if split == "novel-template":
        types = NOVEL_TEMPLATE_TYPES[kind]
        return types[int(rng.integers(len(types)))]
    shares = REC_SHARES if kind == "rec" else VQA_SHARES
    weights = np.array(list(shares.values()))
    return str(rng.choice(list(shares), p=weights / weights.sum()))


def _as_sample(id: str, scene: Scene, question: Question) -> PocketSample:
    image = Image.fromarray(scene.image)
    others = tuple(o.box for i, o in enumerate(scene.objects) if i not in question.about)
    mask = scene.objects[question.about[0]].mask if question.box else None
    return PocketSample(
        id, image, question.kind, question.type, question.text, question.box, question.answer, others, mask
    )
