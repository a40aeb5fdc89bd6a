"""What `Study.measure` asks a model by itself: samples in batches, ready for it, with their truth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from groundprune.checkpoints.load import grounding_of
from groundprune.checkpoints.prompts import model_inputs, prompt_for
from groundprune.data.samples import Sample
from groundprune.evaluation.interventions import Truths
from groundprune.evaluation.preparing import readable
from groundprune.studies.study import Bench

BATCH = 32
Asked = tuple[list[Sample], dict[str, Any], Truths]


def batches(bench: Bench, samples: Sequence[Sample], size: int = BATCH) -> Iterator[Asked]:
    """The samples that can be asked, so many at a time, in their order.

    Yields:
        The samples, the model's inputs (a row each), and their truths.
    """
    grounding = grounding_of(bench.model)
    able = readable(samples, {sample.id for sample in samples}, {})
    for start in range(0, len(able), size):
        some = able[start : start + size]
        images = [sample.image for sample in some]
        prompts = [prompt_for(bench.processor, grounding, sample.kind, sample.text) for sample in some]
        inputs = model_inputs(bench.processor, grounding, images, prompts)
        truths = Truths(some, [image.size for image in images], grounding.frame)
        yield some, dict(inputs.to(bench.model.device, bench.model.dtype)), truths
