"""Probes of positions at every place of a model, a step of the study's run each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from groundprune.studies.parts.depth import ABOUT
from groundprune.studies.parts.probe_images import images_of, inputs_of, that_fit
from groundprune.studies.parts.probing import FULL, QUICK, Split, read_positions
from groundprune.studies.parts.states import LLM, PROJECTOR, TOWER, feeding, places, position_table, states
from groundprune.studies.study import Bench


def read_every_place(bench: Bench, parts: Sequence[str] = (TOWER, PROJECTOR, LLM), count: int | None = None) -> None:
    """Steps "about" and one per place, of the images of the samples; those that are stored are left alone.

    parts: of the model. count: the first so many images; None = all.
    """
    found = [place for place in places(bench.model) if place.part in parts]
    images = images_of(bench)[:count]
    bench.step(ABOUT, lambda: _about(bench, len(images)))
    split, effort = Split.of(len(images), bench.seed), QUICK if bench.quick else FULL
    missing = [place for place in found if str(place) not in bench.steps]
    for some in that_fit(bench, images, missing):
        held, grid = states(bench.model, inputs_of(bench, images), some)
        for place in some:
            bench.step(
                str(place),
                lambda of=held[place], grid=grid: {
                    "grid": list(grid), "right": read_positions(of, grid, split, effort, bench.seed)
                },
            )  # fmt: skip


def _about(bench: Bench, images: int) -> dict[str, Any]:
    split = Split.of(images, bench.seed)
    return {
        "feeds": str(feeding(bench.model)), "table": position_table(bench.model), "train": len(split.train),
        "test": len(split.test),
    }  # fmt: skip
