"""Generated scenes: what the pocket model is evaluated on. Nothing is downloaded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from groundprune.boxes import Box
from groundprune.data.samples import Sample
from groundprune.errors import GroundPruneError, unknown
from groundprune.pocket.questions import REC_SHARES, VQA_SHARES, Question, draw_question
from groundprune.pocket.samples import SPLITS, eval_samples
from groundprune.pocket.scenes import TEST_SEEDS, SceneObject, make_scene

EXPRESSIONS = 3
QUESTIONS = 4


@dataclass(frozen=True, eq=False)
class DrawnScene:
    """A drawing that the pocket model understands, and requests about it with their true answers.

    Attributes:
        image: 144 x 144 pixels.
        expressions: each with the box of what it refers to, in pixels.
        questions: each with its answer.
        objects: what is drawn.
    """

    image: Image.Image
    expressions: dict[str, Box]
    questions: dict[str, str]
    objects: tuple[SceneObject, ...]


def scene(seed: int = 7) -> DrawnScene:
    """The scene of a seed, unseen in the pocket model's training; what `groundprune scene` draws.

    Args:
        seed: 0 to 8,999,999; another seed, another scene.

    Returns:
        DrawnScene, a pure function of the seed.

    Raises:
        GroundPruneError: a seed out of range.
    """
    if not 0 <= seed < len(TEST_SEEDS):
        raise GroundPruneError(f"seed must be 0 to {len(TEST_SEEDS) - 1} (got {seed})")
    drawn = make_scene(TEST_SEEDS[seed])
    expressions = _requests(seed, drawn.objects, "rec", EXPRESSIONS)
    questions = _requests(seed, drawn.objects, "vqa", QUESTIONS)
    return DrawnScene(
        Image.fromarray(drawn.image),
        {found.text: Box(*found.box) for found in expressions if found.box is not None},
        {found.text: found.answer for found in questions if found.answer is not None},
        drawn.objects,
    )


def _requests(seed: int, objects: Sequence[SceneObject], kind: str, wanted: int) -> list[Question]:
    """A function of the seed: requests of as many types as the scene yields, no text twice."""
    rng = np.random.default_rng([seed, wanted])
    types = list(REC_SHARES if kind == "rec" else VQA_SHARES)
    rng.shuffle(types)
    drawn = [draw_question(rng, objects, kind, type) for type in [*types, *types]]
    return list({question.text: question for question in drawn if question is not None}.values())[:wanted]


def scene_samples(n: int, seed: int = 0, split: str = "held-out") -> Iterator[Sample]:
    """Referring expressions, then questions, each about a scene of its own; a pure function of the arguments.

    Args:
        n: how many expressions, and as many questions.
        seed: another seed, other scenes.
        split: one of `groundprune.pocket.samples.SPLITS`.

    Returns:
        An iterator of 2 n samples.

    Raises:
        GroundPruneError: at once, for an unknown split or n < 1.
    """
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    if n < 1:
        raise GroundPruneError(f"scenes must be a whole number of at least 1 (got {n})")
    return _scenes(n, seed, split)


def _scenes(n: int, seed: int, split: str) -> Iterator[Sample]:
    for s in eval_samples(n, n, seed, split):
        box = Box(*s.box) if s.box is not None else None
        others = tuple(Box(*other) for other in s.others)
        yield Sample(s.id, s.image, s.kind, s.type, s.text, box, s.answer, split, s.mask, others)
