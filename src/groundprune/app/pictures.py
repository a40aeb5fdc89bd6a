"""What can be asked about: drawn scenes, whose truth is known, and image files."""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from groundprune import smol
from groundprune.answers import Answer
from groundprune.boxes import Box
from groundprune.boxes.images import load_image
from groundprune.data import open_data
from groundprune.data.scenes import scene
from groundprune.data.sources import SCENES
from groundprune.errors import GroundPruneError
from groundprune.pruning.encode_once import EncodedImages

THINNEST = 50  # longer over shorter edge: beyond it a picture on a page is a line
LONGEST_SIDE = 2048  # pixels; what is larger is shrunk when it is opened, for every change reads it anew


@dataclass(eq=False)
class Picture:
    """An image, what is known of it, and what the model made of it so far.

    requests: by kind ("rec", "vqa"), each with its truth. encoded: None until it was asked about; False where the
    pruners cannot be recorded together, so that each answer runs the tower.
    """

    image: Image.Image
    requests: Mapping[str, Mapping[str, Box | str]]
    encoded: EncodedImages | bool | None = None
    unpruned: OrderedDict[tuple[str, str], tuple[Answer, float]] = field(default_factory=OrderedDict)

    def truth(self, kind: str, text: str) -> Box | str | None:
        return self.requests.get(kind, {}).get(text.strip())


def open_picture(source: str, scenes: str = SCENES) -> Picture:
    """Of a scene's number, "scene:7", or of a file's path. scenes: whose, see `groundprune.data.sources.scenes_of`.

    Raises GroundPruneError where there is no such scene, or the file is no image that a page can show; the message
    names the file without its folder.
    """
    kind, _, seed = source.partition(":")
    if kind == "scene" and scenes == smol.NAME:
        return _of_smol(int(seed))
    if kind == "scene":
        drawn = scene(int(seed))
        return Picture(drawn.image, {"rec": drawn.expressions, "vqa": drawn.questions})
    try:
        image = load_image(source)
    except GroundPruneError as error:
        # Where the server keeps an upload is nobody's business.
        raise GroundPruneError(str(error).replace(source, Path(source).name)) from error
    longer, shorter = max(image.size), min(image.size)
    if longer > THINNEST * shorter:
        raise GroundPruneError(
            f"{Path(source).name}: {image.width} x {image.height} pixels; an image whose one edge is more than "
            f"{THINNEST} times the other cannot be shown here"
        )
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    return Picture(image, {})


def _of_smol(number: int) -> Picture:
    samples = open_data(smol.NAME, scenes=sys.maxsize).samples
    every = [(sample, sample.box) for sample in samples if sample.box is not None]
    if not 0 <= number < len(every):
        raise GroundPruneError(f"{smol.NAME} has scenes 0 to {len(every) - 1} (got {number})")
    sample, box = every[number]
    return Picture(sample.image, {"rec": {sample.text: box}, "vqa": {}})
