"""Answers that are polygons: the outline of what is asked for, 8 to 12 points, as the `polygon` language says it."""

import numpy as np

from groundprune.pocket.questions import Question
from groundprune.pocket.scenes import IMAGE_SIZE, Scene, SceneObject
from tools.pocket_training.packing import turn
from tools.pocket_training.prompts import request
from tools.pocket_training.vocabulary import BINS, CLOSE, EOS, MIDDLE, OPEN, lm_ids


def outline_turn(question: Question, scene: Scene) -> tuple[list[int], list[int]]:
    """`packing.turn` with an outline in place of the box."""
    if question.box is None:
        return turn(question)
    answer = outline_text(outline(scene.objects[question.about[0]]))
    return lm_ids(f"{request(question.kind, question.text)} assistant:"), lm_ids(f"{answer} {EOS}")


def outline(obj: SceneObject) -> np.ndarray:
    """Corners of an object, or points on its edge, clockwise from its top: float [points, 2], x and y in pixels."""
    points = _POINTS[obj.shape]
    low, high = points.min(0), points.max(0)
    left, top, right, bottom = obj.box
    return np.array([left, top]) + (points - low) / (high - low) * np.array([right - left, bottom - top])


def outline_text(points: np.ndarray) -> str:
    """Pixels to text, `[0.12, 0.34, 0.56, ..., 0.78]`: x and y of each point in turn, as shares of the side."""
    bins = [min(BINS - 1, round(float(value) / IMAGE_SIZE * BINS)) for value in points.ravel()]
    return " ".join([OPEN[bins[0]], *(MIDDLE[b] for b in bins[1:-1]), CLOSE[bins[-1]]])


def _around(radii: list[float]) -> np.ndarray:
    angle = 2 * np.pi * np.arange(len(radii)) / len(radii)
    return np.stack([np.sin(angle), -np.cos(angle)], 1) * np.array(radii)[:, None]


def _along(corners: list[tuple[float, float]], parts: int) -> np.ndarray:
    """Every edge in so many parts."""
    start, end = np.array(corners), np.roll(np.array(corners), -1, 0)
    share = np.arange(parts)[:, None] / parts
    return (start[:, None] + share * (end - start)[:, None]).reshape(-1, 2)


_ARM = 0.36  # half the width of a cross's arms
_POINTS = {
    "circle": _around([1.0] * 12),
    "square": _along([(-1, -1), (1, -1), (1, 1), (-1, 1)], 2),
    "triangle": _along([(0, -1), (1, 1), (-1, 1)], 3),
    "star": _around([1.0, 0.42] * 5),
    "cross": np.array([
        (-_ARM, -1), (_ARM, -1), (_ARM, -_ARM), (1, -_ARM), (1, _ARM), (_ARM, _ARM), (_ARM, 1), (-_ARM, 1),
        (-_ARM, _ARM), (-1, _ARM), (-1, -_ARM), (-_ARM, -_ARM),
    ]),
}  # fmt: skip
