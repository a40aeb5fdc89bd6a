"""The two ways to ask for a box and to read it; a result says which one it used.

native: the checkpoint's own prompt, frame and box language, and its authors' rule for a right box.
paper: the task refcoco_bbox_rec of lmms-eval 0.7.3, with which LLaVA-1.5-7B's 56 on RefCOCO val is reached: one
prompt for all models, the image as the model's own preprocessing shows it, and the first four numbers in brackets
taken as shares of the UNPADDED image, whatever frame the model learned.

Questions are asked as each checkpoint asks them (native), or with GQA's usual suffix (paper). Points are asked for in
native alone: the other task has none.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from groundprune.boxes import Box, Point, make_frame
from groundprune.boxes.polygons import Polygon, to_pixels
from groundprune.checkpoints.prompts import box_codec, point_codec, polygon_codec
from groundprune.errors import GroundPruneError, unknown
from groundprune.families.grounding import Grounding
from groundprune.families.llava import LLAVA_GROUNDING

PROTOCOLS = ("native", "paper")
IOU_THRESHOLD = 0.5
PAPER_TOKENS = 64  # new tokens; LLaVA spends 30 on a box of three decimals
_PAPER_REC = (
    "Bounding box coordinates are specified in the format (top-left x, top-left y, bottom-right x, bottom-right y). "
    "All values are floating point numbers bounded between 0 and 1. Please provide the bounding box coordinate of "
    "the region this sentence describes: {expression}"
)
_N = r"(-?\d+(?:\.\d+)?)"
_PAPER_BOX = re.compile(rf"\[\s*{_N},\s*{_N},\s*{_N},\s*{_N}\s*\]", re.ASCII)


def check_protocol(name: str, kinds: Iterable[str]) -> None:
    """Raises GroundPruneError for an unknown protocol, and for a kind of question that it does not have."""
    if name not in PROTOCOLS:
        raise unknown("protocol", name, PROTOCOLS)
    if name == "paper" and "point" in kinds:
        raise GroundPruneError("protocol 'paper' asks for boxes, and says nothing of points: use protocol 'native'")


@dataclass(frozen=True)
class Protocol:
    """name: one of PROTOCOLS. grounding: the prompts and the frame that it asks with.

    processor: the checkpoint's; a box language in pixels needs it. Raises GroundPruneError for an unknown name.
    """

    name: str
    grounding: Grounding
    processor: Any = None

    @staticmethod
    def of(name: str, grounding: Grounding, processor: Any = None) -> Protocol:
        """grounding: the checkpoint's own."""
        check_protocol(name, ())
        if name == "paper":
            prompts = {"rec_prompt": _PAPER_REC, "vqa_prompt": LLAVA_GROUNDING.vqa_prompt}
            # "original": the image goes to the processor as it is, which pads or cuts it in its own way.
            grounding = replace(grounding, **prompts, frame="original")
        return Protocol(name, grounding, processor)

    def read(self, answer: str, width: int, height: int) -> Box | None:
        """The box of an answer in pixels of the image; None where it gives none. Never the better of two readings."""
        if self.name == "paper":
            found = _PAPER_BOX.search(answer)
            if found is None:
                return None
            x1, y1, x2, y2 = (float(number) for number in found.groups())
            box = Box(x1 * width, y1 * height, x2 * width, y2 * height)
            return box if all(map(math.isfinite, box)) else None
        unit = box_codec(self.processor, self.grounding, width, height).decode(answer)
        return None if unit is None else make_frame(self.grounding.frame, width, height).to_pixels(unit)

    def outline(self, answer: str, width: int, height: int) -> Polygon | None:
        """The outline of an answer in pixels of the image; None where it gives none."""
        codec = polygon_codec(box_codec(self.processor, self.grounding, width, height))
        unit = codec.decode(answer)
        return None if unit is None else to_pixels(unit, make_frame(self.grounding.frame, width, height))

    def point(self, answer: str, width: int, height: int) -> Point | None:
        """The point of an answer, or its box's centre, in unit coordinates of the frame; None where it gives none."""
        return point_codec(self.processor, self.grounding, width, height).decode(answer)

    def is_right(self, overlap: float) -> bool:
        """overlap: IoU. The authors of Shikra (rec.py) and of MiniGPT-v2 (eval_ref.py) count strictly above 0.5."""
        if self.name == "native" and self.grounding.codec in ("shikra", "minigpt-v2"):
            return overlap > IOU_THRESHOLD
        return overlap >= IOU_THRESHOLD
