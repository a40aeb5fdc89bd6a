"""What the page asks of the model: an image is encoded once, and then pruned as often as a slider moves."""

from __future__ import annotations

import contextlib
import threading
import time
import warnings
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from PIL import Image

from groundprune.answers import Answer, answer, inputs_for
from groundprune.app.pictures import Picture, open_picture
from groundprune.boxes import Box, iou
from groundprune.data.sources import scenes_of
from groundprune.errors import GroundPruneError, unknown
from groundprune.evaluation.protocols import IOU_THRESHOLD
from groundprune.evaluation.scoring import same_words
from groundprune.evaluation.specs import MAIN_POSITIONS
from groundprune.pruners import Pruner, make_pruner, pruner_class, pruner_names
from groundprune.pruning.context import prune
from groundprune.pruning.encode_once import EncodedImages, encode
from groundprune.report.score_maps import Scored, gridded, noting_scores
from groundprune.signals import VIDEO
from groundprune.tokens.positions import Policy, parse_policy

PICTURES = 4  # that stay encoded; the oldest is forgotten
ANSWERS = 16  # of the unpruned model that are remembered, of each picture
LONGEST_TEXT = 500  # characters


@dataclass(frozen=True, eq=False)
class Asked:
    """What one way of pruning made of a request.

    name: "unpruned" or the position policy. scored: None where nothing pruned. seconds: of the answer. truth: the box
    or the words that are right, None where they are not known.
    """

    name: str
    said: Answer
    scored: Scored | None
    seconds: float
    truth: Box | str | None

    @property
    def iou(self) -> float | None:
        """With the true box, where that is known; 0 without a box."""
        if not isinstance(self.truth, Box):
            return None
        return 0.0 if self.said.box is None else iou(self.said.box, self.truth)

    @property
    def right(self) -> bool | None:
        """As `evaluate` counts it; None where the truth is not known."""
        if isinstance(self.truth, str):
            return same_words(self.said.text, self.truth)
        return None if self.iou is None else self.iou >= IOU_THRESHOLD


@dataclass(frozen=True, eq=False)
class Reply:
    """image: what was asked about. asked: unpruned first, then preserved, then the policy of the page. notes: what
    the model's code warned of."""

    image: Image.Image
    asked: list[Asked]
    notes: list[str]


class Bench:
    """A model, and the pictures that it has seen; threads take turns.

    Args:
        model: what `gp.load` gives.
        processor: likewise.
        name: what the page calls it; of smol its scenes are offered, of any other model the pocket's.
    """

    def __init__(self, model: Any, processor: Any, name: str):
        self.model, self.processor, self.name = model, processor, name
        self._scenes = scenes_of(name)
        self._lock = threading.RLock()
        self._pictures: OrderedDict[str, Picture] = OrderedDict()
        self.pruners = self._servable()

    def picture(self, source: str) -> Picture:
        """Of the number of a scene of the model's, "scene:7", or of a file's path.

        Raises GroundPruneError as `open_picture` does.
        """
        with self._lock:
            found = self._pictures.pop(source, None) or open_picture(source, self._scenes)
            self._pictures[source] = found
            while len(self._pictures) > PICTURES:
                self._pictures.popitem(last=False)
            return found

    def ask(self, source: str, text: str, kind: str, pruner: str, keep: float | str, policy: str) -> Reply:
        """One request, unpruned, with preserved ids, and under `policy`.

        Args:
            source: see `picture`.
            text: a referring expression or a question.
            kind: "rec" or "vqa".
            pruner: the name of one.
            keep: the share of the visual tokens that stay.
            policy: one of `groundprune.tokens.positions.FORMS`.

        Raises:
            GroundPruneError: what `answer` refuses, and a text of more than LONGEST_TEXT characters.
        """
        if len(text) > LONGEST_TEXT:
            raise GroundPruneError(f"the text has {len(text)} characters; at most {LONGEST_TEXT} are asked here")
        if pruner not in self.pruners:  # and none of a file, which would be run
            raise unknown("pruner", pruner, self.pruners)
        made = make_pruner(pruner, keep)
        # By what was typed: two names of one policy stay two panels.
        policies = {MAIN_POSITIONS[0]: parse_policy(MAIN_POSITIONS[0])}
        policies[policy] = parse_policy(policy, made.official(self.model.config))
        with self._lock, warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            picture = self.picture(source)
            truth = picture.truth(kind, text)
            self._encode(picture, text, kind)
            said, seconds = self._unpruned(picture, text, kind)
            asked = [Asked("unpruned", said, None, seconds, truth)]
            asked += [
                Asked(name, *self._pruned(picture, text, kind, made, each), truth) for name, each in policies.items()
            ]
        ours = (w for w in caught if issubclass(w.category, UserWarning))
        return Reply(picture.image, asked, list(dict.fromkeys(str(w.message) for w in ours)))

    def _encode(self, picture: Picture, text: str, kind: str) -> None:
        if picture.encoded is None:
            inputs = inputs_for(self.model, self.processor, picture.image, text, kind)
            picture.encoded = False
            with contextlib.suppress(GroundPruneError):
                picture.encoded = encode(self.model, inputs, [make_pruner(name, 1) for name in self.pruners])

    def _unpruned(self, picture: Picture, text: str, kind: str) -> tuple[Answer, float]:
        known = picture.unpruned
        found = known.pop((kind, text), None)
        if found is None:
            found = self._answer(picture, text, kind, None, "preserved")
        known[kind, text] = found
        while len(known) > ANSWERS:
            known.popitem(last=False)
        return found

    def _pruned(
        self, picture: Picture, text: str, kind: str, pruner: Pruner, policy: Policy
    ) -> tuple[Answer, Scored, float]:
        noting, scores = noting_scores(pruner)
        said, seconds = self._answer(picture, text, kind, noting, policy)
        assert said.layout is not None  # a pruner ran
        assert said.chosen is not None
        return said, gridded(pruner, said.layout, said.chosen, scores), seconds

    def _answer(
        self, picture: Picture, text: str, kind: str, pruner: Pruner | None, policy: Policy | str
    ) -> tuple[Answer, float]:
        encoded = picture.encoded if isinstance(picture.encoded, EncodedImages) else None
        start = time.perf_counter()
        said = answer(self.model, self.processor, picture.image, text, kind, pruner, policy, encoded=encoded)
        return said, time.perf_counter() - start

    def _servable(self) -> list[str]:
        """The registered pruners that this model can give what they need; of images alone, so none of videos."""
        found = []
        for name in (each for each in pruner_names() if VIDEO not in pruner_class(each).needs):
            with contextlib.suppress(GroundPruneError), prune(self.model, make_pruner(name, 1), "preserved", ["-"]):
                found.append(name)
        return found

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the visual tokens of a scene; of several grids, those of the first."""
        with self._lock:
            picture = self.picture("scene:7")
            text = next(iter(picture.requests["rec"]))
            self._encode(picture, text, "rec")
            scored = self._pruned(picture, text, "rec", make_pruner("spatial", 1), parse_policy("preserved"))[1]
        rows, columns = scored.kept[0].shape
        return rows, columns
