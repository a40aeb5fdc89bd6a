"""The words around a box or a point: how a checkpoint is asked for one, and how it answers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Grounding:
    """How a checkpoint is asked for a box, and how it answers.

    Attributes:
        rec_prompt: with {expression}.
        vqa_prompt: with {question}.
        codec: a name in `groundprune.boxes`.
        frame: likewise.
        seg_prompt: with {expression}, for an outline: a polygon in the numbers of the checkpoint's boxes.
        point_prompt: with {expression}, for a point; without one a box is asked for, whose centre counts.
        point_codec: a name among the point codecs of `groundprune.boxes`; without one only boxes are read.
        turn: the whole prompt, with {image} and {text}, of a checkpoint that has no chat template.
    """

    rec_prompt: str
    vqa_prompt: str
    codec: str
    frame: str
    seg_prompt: str = (
        "Please provide the polygon that outlines the region this sentence describes, as one list of the x and y "
        "coordinates of its points: {expression}"
    )
    point_prompt: str | None = None
    point_codec: str | None = None
    turn: str = "USER: {image}\n{text} ASSISTANT:"
