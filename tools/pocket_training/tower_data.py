"""What the tower is trained on: pictures, phrases about their objects, and which patch shows what."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from groundprune.pocket.questions import FORMS, describe, draw_question
from groundprune.pocket.scenes import (
    COLORS,
    HELD_OUT_PAIRS,
    IMAGE_SIZE,
    PATCH_SIZE,
    SHAPES,
    SIZES,
    SceneObject,
    make_scene,
    shape_mask,
)

from .runtime import Workers, scene_seed
from .vocabulary import CLIP_IDS, PAD, clip_ids

TEXT_LENGTH = 16
QUESTIONS_PER_SCENE = 2
BACKGROUND = "the background"


@dataclass(frozen=True)
class TowerPlan:
    """What fixes a run of this stage."""

    seed: int
    steps: int = 1500
    batch: int = 64  # scenes a step, over all processes
    optimizer: str = "muon"  # "muon" | "adamw"
    peak_rate: float = 3e-3
    warmup: int = 60
    hold: float = 0.3
    compile: bool = True
    patch: int = PATCH_SIZE  # pixels
    positions: str = "none"  # "none" | "learned" | "rotary"
    places: float = 0.0  # weight of the loss that keeps rows and columns readable in the last two layers


def patch_owners(objects, patch: int = PATCH_SIZE) -> np.ndarray:
    """Index of the object that covers most of each patch (at least 15% of it), else -1: int64 [patches]."""
    grid = IMAGE_SIZE // patch
    owner, best = np.full((grid, grid), -1, np.int64), np.full((grid, grid), 0.15)
    for index, obj in enumerate(objects):
        left, top, right, bottom = obj.box
        canvas = np.zeros((IMAGE_SIZE, IMAGE_SIZE), np.float32)
        canvas[top:bottom, left:right] = shape_mask(obj.shape, right - left, bottom - top)
        cover = canvas.reshape(grid, patch, grid, patch).mean((1, 3))
        owner[cover > best] = index
        best = np.maximum(best, cover)
    return owner.ravel()


class Phrases:
    """Every description of an object, but for those that name a held-out pair, and what each fits."""

    def __init__(self):
        self.texts, self.forms, self.likes = [], [], []
        for form in FORMS:
            for like in _objects_of(form):
                if {"color", "shape"} <= set(form) and like.pair in HELD_OUT_PAIRS:
                    continue
                self.texts.append("the " + describe(like, form))
                self.forms.append(form)
                self.likes.append(like)
        # Each form counts the same, however many phrases it has.
        self.weight = torch.tensor([1 / self.forms.count(form) for form in self.forms])
        self._fits: dict[tuple, np.ndarray] = {}

    def fitting(self, objects) -> np.ndarray:
        """Which phrases fit any of the objects: float32 [phrases]."""
        return np.max([self._fitting_one(obj) for obj in objects], axis=0)

    def _fitting_one(self, obj: SceneObject) -> np.ndarray:
        key = (obj.size, obj.color, obj.shape)
        if key not in self._fits:
            fits = [
                all(getattr(like, name) == getattr(obj, name) for name in form)
                for form, like in zip(self.forms, self.likes, strict=True)
            ]
            self._fits[key] = np.array(fits, np.float32)
        return self._fits[key]


def _objects_of(form) -> list[SceneObject]:
    choices = [options if name in form else options[:1] for name, options in _ATTRIBUTES.items()]
    return [SceneObject(s, c, z, (0, 0, 0, 0)) for s in choices[0] for c in choices[1] for z in choices[2]]


_ATTRIBUTES = {"shape": SHAPES, "color": COLORS, "size": SIZES}
WORD_TEXTS = {
    "shape": [f"the {shape}" for shape in SHAPES],
    "color": [f"the {color} object" for color in COLORS],
    "size": [f"the {size} object" for size in SIZES],
}


def text_ids(texts: list[str]) -> Tensor:
    """Token ids padded on the right: long [texts, 16]."""
    ids = torch.full((len(texts), TEXT_LENGTH), CLIP_IDS[PAD])
    for row, text in enumerate(texts):
        tokens = clip_ids(text)
        ids[row, : len(tokens)] = torch.tensor(tokens)
    return ids


class TowerBatches:
    """`batch(step)`: images, phrase labels, attributes of each patch, questions with their patches."""

    def __init__(self, plan: TowerPlan, workers: Workers):
        self.plan, self.rows, self.phrases = plan, workers.share(plan.batch), Phrases()

    def __call__(self, step: int) -> dict[str, Tensor]:
        images, present, attributes, texts, evidence = [], [], [], [], []
        for row in self.rows:
            seed = scene_seed(self.plan.seed, 0, step * self.plan.batch + row)
            scene, rng = make_scene(seed), np.random.default_rng([seed, 2])
            owner = patch_owners(scene.objects, self.plan.patch)
            images.append(scene.image)
            present.append(self.phrases.fitting(scene.objects))
            # The last class of every attribute is the background, which index -1 picks.
            codes = [[options.index(getattr(o, name)) for o in scene.objects] + [len(options)]
                     for name, options in _ATTRIBUTES.items()]  # fmt: skip
            attributes.append(np.array(codes)[:, owner])
            for kind in ("rec", "vqa")[:QUESTIONS_PER_SCENE]:
                question = draw_question(rng, scene.objects, kind)
                wanted = np.isin(owner, question.about) if question else np.zeros(len(owner), bool)
                texts.append(question.text if question else BACKGROUND)
                evidence.append(wanted / max(1, wanted.sum()))
        return {
            "images": torch.from_numpy(np.stack(images)),
            "present": torch.from_numpy(np.stack(present)),
            "attributes": torch.from_numpy(np.stack(attributes)),  # long [B, 3, patches]
            "texts": text_ids(texts),  # long [B * 2, 16]
            "evidence": torch.from_numpy(np.stack(evidence)).float(),  # [B * 2, patches], each row sums to 1 or 0
        }
