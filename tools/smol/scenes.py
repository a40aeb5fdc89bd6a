"""Scenes of named pictures on photographs and drawn backgrounds, each a pure function of its seed and the pictures.

An image is 180x180 RGB. Patches of 20 pixels give a 9x9 grid: the language model's second rotary pair turns once in
9.0 positions, so that a patch and the one below it have the same angle there.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from groundprune.pocket.scenes import TRAIN_SEEDS

from .names import HELD_OUT_NAMES, trained_names
from .pictures import Pictures

IMAGE_SIZE = 180
PATCH_SIZE = 20
GRID = IMAGE_SIZE // PATCH_SIZE
SIDE = ((36, 52), (56, 84))  # pixels of the longer side, both ends included: small things and large ones
OPAQUE = 60  # of 255: what counts as part of a thing
COVERED = 0.2  # of a patch, from which on it shows the thing
HELD_OUT_BACKGROUNDS = 4  # every fourth photograph is only shown in tests

# held-out: new scenes, new photographs. novel-picture: in addition the pictures of a set that was never shown.
# novel-name: about a thing that was never shown or named. validation: as held-out, for choices.
SPLITS = ("held-out", "novel-picture", "novel-name", "validation")
TRAIN = "train"


@dataclass(frozen=True)
class SceneObject:
    """name: of the thing. box: `(left, top, right, bottom)` in pixels, right and bottom exclusive."""

    name: str
    box: tuple[int, int, int, int]

    @property
    def center(self) -> tuple[float, float]:
        """x and y in pixels."""
        left, top, right, bottom = self.box
        return (left + right) / 2, (top + bottom) / 2

    @property
    def size(self) -> int:
        """Pixels of the box."""
        left, top, right, bottom = self.box
        return (right - left) * (bottom - top)


@dataclass(frozen=True)
class Scene:
    """image: uint8 [180, 180, 3]. objects: none overlaps another. owner: int64 [81], the object that each patch
    shows most of, -1 where there is none."""

    image: np.ndarray
    objects: tuple[SceneObject, ...]
    owner: np.ndarray


def make_scene(pictures: Pictures, seed: int, split: str = TRAIN) -> Scene:
    """The scene of a seed; in novel-name, its first object is one of those names."""
    if (seed in TRAIN_SEEDS) != (split == TRAIN):
        raise ValueError(f"seed {seed} is not one of split {split!r}")
    rng = np.random.default_rng([seed, 7])
    canvas = background(rng, pictures, split == TRAIN).astype(np.float32)
    count = int(rng.integers(3, 7))
    names = _names(rng, pictures, count, split)
    objects, owner = [], np.full((GRID, GRID), -1)
    best = np.full((GRID, GRID), COVERED)
    taken = np.zeros((IMAGE_SIZE, IMAGE_SIZE), bool)
    for name in names:
        sprite = _sprite(rng, pictures.of(name, split == "novel-picture"))
        placed = _place(rng, taken, sprite.shape[:2])
        if placed is None:
            continue
        top, left = placed
        height, width = sprite.shape[:2]
        inside = np.s_[top : top + height, left : left + width]
        alpha = sprite[:, :, 3:] / 255
        canvas[inside] = canvas[inside] * (1 - alpha) + sprite[:, :, :3] * alpha
        taken[inside] = True
        cover = np.zeros((IMAGE_SIZE, IMAGE_SIZE), np.float32)
        cover[inside] = sprite[:, :, 3] > OPAQUE
        cover = cover.reshape(GRID, PATCH_SIZE, GRID, PATCH_SIZE).mean((1, 3))
        owner[cover > best] = len(objects)
        best = np.maximum(best, cover)
        objects.append(SceneObject(name, (left, top, left + width, top + height)))
    return Scene(canvas.clip(0, 255).astype(np.uint8), tuple(objects), owner.ravel())


def _names(rng, pictures: Pictures, count: int, split: str) -> list[str]:
    """Often several of one name, so that a name alone does not tell which."""
    known = [name for name in trained_names() if pictures.of(name, split == "novel-picture")]
    names = []
    if split == "novel-name":
        names.append(_pick(rng, sorted(HELD_OUT_NAMES & pictures.sprites.keys())))
    while len(names) < count:
        name = _pick(rng, known)
        names += [name] * int(rng.choice((1, 2, 3), p=(0.62, 0.28, 0.10)))
    return names[:count]


def _sprite(rng, choices: list[np.ndarray]) -> np.ndarray:
    image = Image.fromarray(_pick(rng, choices))
    low, high = SIDE[int(rng.integers(2))]
    scale = int(rng.integers(low, high + 1)) / max(image.size)
    image = image.resize([max(8, round(side * scale)) for side in image.size], Image.Resampling.BILINEAR)
    sprite = np.asarray(image).astype(np.float32)
    if rng.random() < 0.5:
        sprite = sprite[:, ::-1].copy()
    sprite[:, :, :3] = ((sprite[:, :, :3] - 128) * rng.uniform(0.85, 1.15) + 128 + rng.uniform(-20, 20)).clip(0, 255)
    return _trimmed(sprite)


def _trimmed(sprite: np.ndarray) -> np.ndarray:
    """Without empty rows and columns at the borders, so that boxes are tight."""
    rows, columns = (np.flatnonzero((sprite[:, :, 3] > OPAQUE).any(axis)) for axis in (1, 0))
    return sprite[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _place(rng, taken: np.ndarray, size: tuple[int, int]) -> tuple[int, int] | None:
    for _ in range(30):
        top, left = (int(rng.integers(0, IMAGE_SIZE - side + 1)) for side in size)
        if not taken[top : top + size[0], left : left + size[1]].any():
            return top, left
    return None


def background(rng, pictures: Pictures, trained: bool) -> np.ndarray:
    """[180, 180, 3], 0 to 255 or a little beyond: part of a photograph of training or of tests, or drawn."""
    kept = [b for i, b in enumerate(pictures.backgrounds) if (i % HELD_OUT_BACKGROUNDS > 0) == trained]
    if not kept or rng.random() < 0.35:
        return _drawn(rng)
    photograph = _pick(rng, kept)
    height, width = photograph.shape[:2]
    side = int(rng.integers(IMAGE_SIZE // 2, min(height, width) + 1))
    top, left = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
    part = Image.fromarray(photograph[top : top + side, left : left + side])
    part = np.asarray(part.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BILINEAR)).astype(np.float32)
    part = part[:, ::-1] if rng.random() < 0.5 else part
    return part * rng.uniform(0.6, 1.1) + rng.uniform(-20, 40)


def _drawn(rng) -> np.ndarray:
    corners = Image.fromarray(rng.integers(20, 236, (2, 2, 3), np.uint8))
    smooth = np.asarray(corners.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BILINEAR))
    noise = Image.fromarray(rng.integers(0, 256, (24, 24, 3), np.uint8))
    rough = np.asarray(noise.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC)).astype(np.float32)
    return smooth + (rough - 128) * rng.uniform(0, 0.35)


def _pick(rng, options):
    return options[int(rng.integers(len(options)))]
