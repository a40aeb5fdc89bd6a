"""The images of a study's samples as a model's inputs, in parts that fit into memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from groundprune.data.samples import Sample
from groundprune.evaluation.preparing import open_image
from groundprune.studies.parts.asking import batches
from groundprune.studies.parts.states import Place, states
from groundprune.studies.study import Bench

_BATCH = 16
_BYTES = 2**32  # of states that are held at a time


def images_of(bench: Bench) -> list[Sample]:
    """One sample per image that can be opened."""
    every = {sample.image_key: sample for sample in bench.data.samples}
    return [sample for sample in every.values() if open_image([sample], {})[0]]


def inputs_of(bench: Bench, images: Sequence[Sample]) -> Iterator[dict[str, Any]]:
    """What the model takes, a few prompts at a time; pixels and all."""
    return (inputs for _, inputs, _ in batches(bench, images, _BATCH))


def that_fit(bench: Bench, images: Sequence[Sample], missing: Sequence[Place]) -> Iterator[Sequence[Place]]:
    """Places whose states fit into memory together; the model runs once for each part."""
    if not missing:
        return
    one, _ = states(bench.model, inputs_of(bench, images[:1]), missing)
    part, total = list[Place](), 0
    for place in missing:
        size = len(images) * one[place].nbytes
        if part and total + size > _BYTES:
            yield part
            part, total = [], 0
        part, total = [*part, place], total + size
    yield part
