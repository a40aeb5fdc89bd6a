"""The words around a box: how a checkpoint is asked for one, and how it answers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Grounding:
    """How a checkpoint is asked for a box, and how it answers.

    rec_prompt and vqa_prompt hold {expression} and {question}; codec and frame are names in `groundprune.boxes`.
    turn: the whole prompt, with {image} and {text}, of a checkpoint that has no chat template.
    """

    rec_prompt: str
    vqa_prompt: str
    codec: str
    frame: str
    turn: str = "USER: {image}\n{text} ASSISTANT:"
