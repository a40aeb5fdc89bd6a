"""Drawn scenes: a few coloured shapes on a cluttered background, each scene a pure function of its seed.

An image is 144x144 RGB, so patches of 12 pixels give a 12x12 grid of 144 visual tokens.
Boxes are `(left, top, right, bottom)` in pixels, right and bottom exclusive, tight to what is drawn.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np

IMAGE_SIZE = 144
PATCH_SIZE = 12
GRID = IMAGE_SIZE // PATCH_SIZE

SHAPES = ("circle", "square", "triangle", "star", "cross")
COLORS = ("red", "green", "blue", "yellow", "purple", "cyan")
SIZES = ("small", "large")
RGB = {
    "red": (220, 40, 40),
    "green": (40, 170, 60),
    "blue": (50, 80, 220),
    "yellow": (235, 205, 40),
    "purple": (160, 60, 190),
    "cyan": (50, 200, 215),
}
SIDE = {"small": (17, 23), "large": (33, 45)}  # pixels, both ends included

# Never drawn and never named in training; every colour and every shape still is, in other company.
HELD_OUT_PAIRS = frozenset({("red", "star"), ("blue", "triangle"), ("green", "cross"), ("yellow", "circle")})
PAIRS = tuple((color, shape) for color in COLORS for shape in SHAPES)
TRAINED_PAIRS = tuple(pair for pair in PAIRS if pair not in HELD_OUT_PAIRS)

# Disjoint ranges of scene seeds. A training run takes its own slice of the first one.
TRAIN_SEEDS = range(1_000_000_000)
VALIDATION_SEEDS = range(1_000_000_000, 1_001_000_000)
TEST_SEEDS = range(1_001_000_000, 1_010_000_000)

GAP = 3  # least distance between the boxes of two objects, in pixels


@dataclass(frozen=True)
class SceneObject:
    """A drawn shape."""

    shape: str
    color: str
    size: str
    box: tuple[int, int, int, int]
    window: tuple[int, int, int, int] = (0, 0, 0, 0)  # what the shape was drawn into, a little more than its box

    @property
    def center(self) -> tuple[float, float]:
        left, top, right, bottom = self.box
        return (left + right) / 2, (top + bottom) / 2

    @property
    def pair(self) -> tuple[str, str]:
        return self.color, self.shape

    @property
    def mask(self) -> np.ndarray:
        """Bool [144, 144]: the pixels that are the object's by at least half."""
        left, top, right, bottom = self.window
        found = np.zeros((IMAGE_SIZE, IMAGE_SIZE), bool)
        found[top:bottom, left:right] = shape_mask(self.shape, right - left, bottom - top) >= 0.5
        return found


@dataclass(frozen=True)
class Scene:
    """An image and the truth about it."""

    seed: int
    image: np.ndarray  # uint8 [144, 144, 3]
    objects: tuple[SceneObject, ...]


def make_scene(seed: int, novel_pair: bool = False) -> Scene:
    """Draw the scene of `seed`; with `novel_pair`, its first object is of a held-out shape-colour pair."""
    rng = np.random.default_rng([seed, int(novel_pair)])
    image = _background(rng)
    objects: list[SceneObject] = []
    for _ in range(rng.integers(3, 8)):
        pairs = sorted(HELD_OUT_PAIRS) if novel_pair and not objects else TRAINED_PAIRS
        color, shape = pairs[rng.integers(len(pairs))]
        size = SIZES[rng.integers(2)]
        place = _free_place(rng, size, objects)
        if place is not None:
            box = _draw(image, rng, shape, color, place)
            objects.append(SceneObject(shape, color, size, box, place))
    noise = rng.standard_normal((IMAGE_SIZE, IMAGE_SIZE, 1), dtype=np.float32)
    noise *= np.float32(rng.uniform(3, 12))
    image += noise
    np.clip(image, 0, 255, out=image)
    return Scene(seed, image.astype(np.uint8), tuple(objects))


def _free_place(rng, size: str, objects: list[SceneObject]) -> tuple[int, int, int, int] | None:
    """A box that keeps its distance from all objects; None when forty tries find none."""
    low, high = SIDE[size]
    for _ in range(40):
        u, v, w, x = rng.random(4).tolist()
        width, height = low + int(u * (high - low + 1)), low + int(v * (high - low + 1))
        left, top = 1 + int(w * (IMAGE_SIZE - width - 1)), 1 + int(x * (IMAGE_SIZE - height - 1))
        right, bottom = left + width, top + height
        if all(
            right + GAP <= o.box[0] or o.box[2] + GAP <= left or bottom + GAP <= o.box[1] or o.box[3] + GAP <= top
            for o in objects
        ):
            return left, top, right, bottom
    return None


def _draw(image: np.ndarray, rng, shape: str, color: str, place) -> tuple[int, int, int, int]:
    """Paint one object into `image` (float [H, W, 3], in place) and return its tight box."""
    left, top, right, bottom = place
    cover = shape_mask(shape, right - left, bottom - top)
    paint = np.clip(np.array(RGB[color], np.float32) + rng.normal(0, 12, 3), 0, 255).astype(np.float32)
    window = image[top:bottom, left:right]
    window += cover[..., None] * (paint - window)
    x1, y1, x2, y2 = tight_box(shape, right - left, bottom - top)
    return left + x1, top + y1, left + x2, top + y2


@cache
def tight_box(shape: str, width: int, height: int) -> tuple[int, int, int, int]:
    """Bounds of the pixels that the shape covers by more than two fifths."""
    rows, columns = np.where(shape_mask(shape, width, height) > 0.4)
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


@cache
def shape_mask(shape: str, width: int, height: int, oversampling: int = 3) -> np.ndarray:
    """Share of every pixel that the shape covers: float32 [height, width] in 0..1."""
    y, x = np.mgrid[0 : height * oversampling, 0 : width * oversampling].astype(np.float32)
    u = (x + 0.5) / (width * oversampling) * 2 - 1
    v = (y + 0.5) / (height * oversampling) * 2 - 1
    inside = _INSIDE[shape](u, v)
    return inside.reshape(height, oversampling, width, oversampling).mean((1, 3), dtype=np.float32)


def _inside_star(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Fold the plane onto one half of one of five points, where the edge is a straight line."""
    half_point = np.pi / 5
    inner_radius = 0.42
    radius = np.hypot(u, v)
    angle = np.abs((np.arctan2(u, -v) + half_point) % (2 * half_point) - half_point)
    along, across = radius * np.cos(angle), radius * np.sin(angle)
    inner_x, inner_y = inner_radius * np.cos(half_point), inner_radius * np.sin(half_point)
    return (inner_x - 1) * across - inner_y * (along - 1) >= 0


_INSIDE = {
    "circle": lambda u, v: u * u + v * v <= 1,
    "square": lambda u, v: np.ones_like(u, bool),
    "triangle": lambda u, v: np.abs(u) <= (v + 1) / 2,
    "star": _inside_star,
    "cross": lambda u, v: (np.abs(u) <= 0.36) | (np.abs(v) <= 0.36),
}

_AXIS = np.linspace(-1, 1, IMAGE_SIZE, dtype=np.float32)
_X, _Y = _AXIS[None, :], _AXIS[:, None]


def _background(rng) -> np.ndarray:
    """A gradient with low-contrast clutter: float32 [H, W, 3]."""
    base = (rng.uniform(70, 180) + rng.uniform(-12, 12, 3)).astype(np.float32)
    light = np.float32(rng.uniform(-35, 35)) * _X + np.float32(rng.uniform(-35, 35)) * _Y
    layers, tints = [light], [np.ones(3, np.float32)]
    for _ in range(rng.integers(0, 5)):
        layers.append(_CLUTTER[rng.integers(len(_CLUTTER))](rng))
        tints.append((rng.uniform(-1, 1, 3) * rng.uniform(6, 22)).astype(np.float32))
    # One matrix product lays all layers over each other.
    image = np.stack(layers, -1).reshape(-1, len(layers)) @ np.stack(tints)
    return image.reshape(IMAGE_SIZE, IMAGE_SIZE, 3) + base


def _blob(rng) -> np.ndarray:
    x, y = rng.uniform(-1, 1, 2).astype(np.float32)
    width, height = rng.uniform(0.1, 0.5, 2).astype(np.float32)
    return np.exp(-(((_Y - y) / height) ** 2)) * np.exp(-(((_X - x) / width) ** 2))


def _line(rng) -> np.ndarray:
    angle, offset, width = rng.uniform(0, np.pi), rng.uniform(-0.8, 0.8), rng.uniform(0.01, 0.05)
    distance = np.float32(np.cos(angle)) * _X + np.float32(np.sin(angle)) * _Y - np.float32(offset)
    return (np.abs(distance) < width).astype(np.float32)


def _stripes(rng) -> np.ndarray:
    angle, frequency = rng.uniform(0, np.pi), rng.uniform(6, 40)
    phase = np.float32(np.cos(angle)) * _X + np.float32(np.sin(angle)) * _Y
    return 0.5 * np.sin(np.float32(frequency) * phase + np.float32(rng.uniform(0, 6.28)))


_CLUTTER = (_blob, _line, _stripes)
