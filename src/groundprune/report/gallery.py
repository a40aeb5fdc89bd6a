"""Samples to look at: chosen evenly over question types and outcomes, with their boxes and what was kept."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from PIL import Image

from groundprune.boxes import Box
from groundprune.data import Sample, open_data
from groundprune.data.sources import DRAWN, as_task
from groundprune.errors import GroundPruneError
from groundprune.evaluation.identity import samples_fingerprint
from groundprune.report.headline import Shown
from groundprune.report.kept_maps import border_path, dropped_path
from groundprune.report.overlay import KeptMap

Row = Mapping[str, Any]
SAMPLES = 100  # in a page; of the pocket's scenes they take less than 2 MB
_LONGEST_SIDE = 360  # pixels of a stored picture; what is smaller keeps its size
_SHOWN_SIDE = 264  # pixels of the place on the page, about


@dataclass(frozen=True, eq=False)
class Answered:
    """What one setting said about one sample. name: "unpruned" or the policy. box: pixels of the image, or None.

    iou: 0..1, or None for a question. point: pixels of the image, where one was asked for and said.
    """

    name: str
    text: str
    correct: bool
    iou: float | None
    box: Box | None
    point: tuple[float, float] | None = None

    @staticmethod
    def of(name: str, row: Row) -> Answered:
        box = None if row["box"] is None else Box(*row["box"])
        point = row.get("point")
        return Answered(name, row["answer"], row["correct"], row["iou"], box, None if point is None else (*point,))

    @property
    def told(self) -> str:
        """What was said, as a picture shows it: how well its box fits, or its words."""
        if self.box is not None or self.iou:  # an outline has an IoU and no box
            return f"IoU {self.iou:.2f}"
        if self.point is not None:
            return "({:.0f}, {:.0f})".format(*self.point)
        return self.text or "no answer"


@dataclass(frozen=True, eq=False)
class Item:
    """One sample. picture: a data URI. kept: which tokens the pruned settings kept, None where it is not known."""

    sample: Sample
    picture: str
    answers: list[Answered]
    kept: KeptMap | None

    @property
    def wrong(self) -> list[str]:
        return [a.name for a in self.answers if not a.correct]

    @property
    def small(self) -> bool:
        """True: enlarged on the page, so its pixels should stay sharp."""
        return max(self.sample.image.size) < _SHOWN_SIDE

    @property
    def dropped(self) -> str:
        """An SVG path over what was dropped, in pixels of the image; "" where nothing is known to be."""
        return dropped_path(self.kept)

    @property
    def border(self) -> str:
        """An SVG path between the kept and the dropped cells; shading alone is hard to see on a dark image."""
        return border_path(self.kept)

    @property
    def alt(self) -> str:
        """What the picture shows, for those who do not see it."""
        if self.sample.box is None:
            shown = [f"The image of the question “{self.sample.text}”"]
        else:
            truth = ", ".join(f"{edge:g}" for edge in self.sample.box)
            told = "; ".join(f"{a.name}: {answer_told(a)}" for a in self.answers)
            shown = [f"The image with boxes for “{self.sample.text}”. Ground truth: {truth} pixels. {told}"]
        if self.kept is not None:
            grid = self.kept.grid
            shown.append(f"{int(grid.sum())} of {grid.size} visual tokens are kept, the others dimmed")
        return ". ".join(shown) + "."


def samples_of(run: Mapping[str, Any], ids: Container[str] | None = None) -> dict[str, Sample]:
    """The samples of a run by id, drawn again. run: `Summary.run`. ids: which, None = all.

    Raises GroundPruneError where they cannot be had, or would be others than those that were answered.
    """
    if run.get("data") not in DRAWN:
        raise GroundPruneError(f"samples of {run.get('data')!r} cannot be had again")
    try:
        found = open_data(f"{run['data']}:{run['split']}", scenes=int(run["scenes"]), seed=int(run["seed"]))
        drawn = as_task(found, run.get("task", "rec")).samples
    except KeyError as error:
        raise GroundPruneError(f"the results do not say which scenes they are about ({error} is missing)") from error
    wanted: dict[str, Sample] = {}

    def passing() -> Iterator[Sample]:
        for sample in drawn:
            if ids is None or sample.id in ids:
                wanted[sample.id] = sample
            yield sample

    if samples_fingerprint(passing()) != run.get("samples"):
        raise GroundPruneError("this version draws other scenes than those that were answered")
    return wanted


def choose(rows: Mapping[tuple[str, str], Row], shown: Shown, limit: int) -> list[str]:
    """Ids of at most `limit` samples that every shown setting with answers has answered.

    Each (kind, type, outcome) takes its turn, what preserved got right and reassigned wrong first, so rare outcomes
    are there. Within one the order is a shuffle by id: the same rows give the same choice, in whatever order they
    were written.
    """
    by_setting: dict[str, dict[str, Row]] = {}
    for (setting, sample), row in rows.items():
        by_setting.setdefault(setting, {})[sample] = row
    answered = [found for result in shown.results.values() if (found := by_setting.get(result.setting.id))]
    if not answered:
        return []
    classes: dict[tuple[Any, ...], list[str]] = {}
    for sample, row in answered[0].items():
        if all(sample in found for found in answered):
            outcome = tuple(not found[sample]["correct"] for found in answered)
            # Sorted, the last setting's failures come first, and among them those that only it has.
            key = (not outcome[-1], outcome[:-1], row["kind"], row["type"])
            classes.setdefault(key, []).append(sample)
    turns = zip_longest(*(sorted(classes[key], key=_shuffled) for key in sorted(classes)))
    return [sample for turn in turns for sample in turn if sample is not None][:limit]


def make_items(
    ids: Sequence[str],
    rows: Mapping[tuple[str, str], Row],
    shown: Shown,
    samples: Mapping[str, Sample],
    kept: Mapping[str, KeptMap],
) -> list[Item]:
    """ids: what `choose` gave. samples, kept: by id; a sample that `kept` lacks is shown without shading."""
    found = []
    for id in ids:
        answers = [
            Answered.of(name, row)
            for name, result in shown.results.items()
            if (row := rows.get((result.setting.id, id))) is not None
        ]
        found.append(Item(samples[id], data_uri(samples[id].image), answers, kept.get(id)))
    return found


def data_uri(image: Image.Image, longest: int = _LONGEST_SIDE) -> str:
    """The picture as a part of a page: JPEG, a quarter of PNG's size on the grain of photographs and scenes.

    longest: pixels of its longer side at most.
    """
    picture = image.convert("RGB")
    picture.thumbnail((longest, longest))
    buffer = io.BytesIO()
    # Colour at full resolution: at half of it the edges of small coloured shapes would bleed.
    picture.save(buffer, "JPEG", quality=88, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def answer_told(answer: Answered) -> str:
    """An answer in words, for those who do not see it."""
    said = "no box" if answer.iou == 0 and answer.box is None else answer.told
    return f"{said}, {'right' if answer.correct else 'wrong'}"


def _shuffled(sample: str) -> str:
    return hashlib.blake2b(sample.encode(), digest_size=8).hexdigest()
