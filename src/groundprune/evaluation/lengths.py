"""How long an answer may get: a box in the model's own words, or the few words of an answer."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from groundprune.boxes import Box
from groundprune.checkpoints.prompts import box_codec
from groundprune.evaluation.protocols import PAPER_TOKENS
from groundprune.families.grounding import Grounding

VQA_TOKENS = 16  # new tokens, as GQA is evaluated
OUTLINE_TOKENS = 256  # new tokens: 32 points of two numbers that a tokenizer cuts into four
POINT_TOKENS = 128  # new tokens: a thought before a click, as UI-TARS's README and lmms-eval's tasks allow
BOX_MARGIN = 4  # new tokens beyond those of a box: the end of the answer, and a blank or two before the box
_ANY_BOX = Box(0.12, 0.34, 0.56, 0.78)


def max_new_tokens(
    processor: Any,
    grounding: Grounding,
    protocol: str,
    kind: str,
    texts: Collection[str],
    sizes: Iterable[tuple[int, int]],
) -> int:
    """What an answer may take: a box of any of the images (width, height in pixels), a name of what it is of.

    texts: the expressions, of which some languages of boxes repeat one.
    """
    if kind == "vqa":
        return VQA_TOKENS
    if kind == "seg":
        return OUTLINE_TOKENS
    if kind == "point" and grounding.point_codec is not None:
        return POINT_TOKENS
    if protocol == "paper":
        return PAPER_TOKENS
    codecs = {box_codec(processor, grounding, *size) for size in sizes}
    named = texts if any(getattr(codec, "names_object", False) for codec in codecs) else ()
    boxes = [codec.encode(_ANY_BOX) for codec in codecs]
    return _longest(processor, boxes) + _longest(processor, named) + BOX_MARGIN


def _longest(processor: Any, texts: Iterable[str]) -> int:
    count = (len(processor.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts)
    return max(count, default=0)
