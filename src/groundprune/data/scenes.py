"""Generated scenes: what the pocket model is evaluated on. Nothing is downloaded."""

from __future__ import annotations

from collections.abc import Iterator

from groundprune.boxes import Box
from groundprune.data.samples import Sample
from groundprune.errors import GroundPruneError, unknown
from groundprune.pocket.samples import SPLITS, eval_samples


def scene_samples(n: int, seed: int = 0, split: str = "held-out") -> Iterator[Sample]:
    """n referring expressions, then n questions, each about a scene of its own; a pure function of the arguments.

    Raises GroundPruneError, at once, for an unknown split or n < 1.
    """
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    if n < 1:
        raise GroundPruneError(f"scenes must be a whole number of at least 1 (got {n})")
    return _scenes(n, seed, split)


def _scenes(n: int, seed: int, split: str) -> Iterator[Sample]:
    for s in eval_samples(n, n, seed, split):
        box = Box(*s.box) if s.box is not None else None
        yield Sample(s.id, s.image, s.kind, s.type, s.text, box, s.answer, split)
