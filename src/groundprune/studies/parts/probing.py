"""Probes: small classifiers that read where a token stands from its state, and controls that cannot know it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

ROW, COLUMN, POSITION = "row", "column", "position"
TARGETS = (ROW, COLUMN, POSITION)
LINEAR, MLP = "linear", "MLP"
SHUFFLED = {kind: f"{kind}, shuffled labels" for kind in (LINEAR, MLP)}
_HIDDEN, _RATE, _DECAY = 256, 1e-2, 1e-2


@dataclass(frozen=True)
class Effort:
    """How long a probe is trained: AdamW, the rate falls to zero; batch counts tokens."""

    steps: int
    batch: int


FULL, QUICK = Effort(500, 2048), Effort(100, 1024)


@dataclass(frozen=True)
class Split:
    """Which images a probe learns from, and which ones it is asked about; no image is in both."""

    train: Tensor
    test: Tensor

    @staticmethod
    def of(images: int, seed: int, share: float = 0.75) -> Split:
        """A random split of at least two images, a function of the arguments."""
        order = torch.randperm(images, generator=torch.Generator().manual_seed(seed))
        cut = min(images - 1, max(1, round(share * images)))
        return Split(order[:cut].sort().values, order[cut:].sort().values)


def read_positions(
    states: Tensor, grid: tuple[int, int], split: Split, effort: Effort = FULL, seed: int = 0
) -> dict[str, list[list[int]]]:
    """Train a linear probe and an MLP, each on true and on shuffled labels, and ask them about the other images.

    The labels of a control are shuffled among the tokens of each training image, so that nothing ties them to
    places; it is asked for the true places.

    Args:
        states: Float[images, rows * cols, D], cells in raster order.
        grid: rows and cols.
        split: of the images.
        effort: of each training.
        seed: of weights, batches and shuffles.

    Returns:
        By kind of probe, per test image how many cells were right of row, column and position.
    """
    truth = cells(grid).expand(len(states), -1, -1)
    generator = torch.Generator().manual_seed(seed)
    orders = torch.stack([torch.randperm(truth.shape[1], generator=generator) for _ in split.train])
    shuffled = cells(grid)[orders]
    features, tested = standardised(states[split.train].float(), states[split.test].float())
    found = {}
    for kind, hidden in ((LINEAR, None), (MLP, _HIDDEN)):
        for name, labels in ((kind, truth[split.train]), (SHUFFLED[kind], shuffled)):
            probe = _trained(features.flatten(0, 1), labels.flatten(0, 1), grid, hidden, effort, seed)
            right = probe.read(tested) == truth[split.test]
            found[name] = right.sum(1).tolist()
    return found


def cells(grid: tuple[int, int]) -> Tensor:
    """Long[rows * cols, 3]: row, column and position (in raster order) of each cell."""
    position = torch.arange(grid[0] * grid[1])
    return torch.stack([position // grid[1], position % grid[1], position], 1)


def standardised(train: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
    """Both with mean 0 and variance 1 per feature, as the training tokens have them; constant features become 0."""
    mean, deviation = train.mean((0, 1)), train.std((0, 1))
    scale = torch.where(deviation > 1e-6 * deviation.max().clamp(min=1e-30), 1 / deviation.clamp(min=1e-30), 0.0)
    return (train - mean) * scale, (test - mean) * scale


class _Probe(nn.Module):
    """One output per row, column and position; of the linear probe these are three classifiers of their own."""

    def __init__(self, width: int, grid: tuple[int, int], hidden: int | None):
        super().__init__()
        self.sizes = (*grid, grid[0] * grid[1])
        layers = [] if hidden is None else [nn.Linear(width, hidden), nn.GELU()]
        self.layers = nn.Sequential(*layers, nn.Linear(hidden or width, sum(self.sizes)))

    def forward(self, features: Tensor) -> Sequence[Tensor]:
        return self.layers(features).split(self.sizes, dim=-1)

    @torch.no_grad()
    def read(self, features: Tensor) -> Tensor:
        """[images, cells, D] -> Long[images, cells, 3]"""
        return torch.stack([torch.stack([x.argmax(-1) for x in self(image)], -1) for image in features])


def _trained(
    features: Tensor, labels: Tensor, grid: tuple[int, int], hidden: int | None, effort: Effort, seed: int
) -> _Probe:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        probe = _Probe(features.shape[-1], grid, hidden)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(probe.parameters(), lr=_RATE, weight_decay=_DECAY)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: math.cos(math.pi / 2 * k / effort.steps))
    with torch.enable_grad():
        for _ in range(effort.steps):
            some = torch.randint(len(features), (min(effort.batch, len(features)),), generator=generator)
            losses = [cross_entropy(x, labels[some, i]) for i, x in enumerate(probe(features[some]))]
            optimizer.zero_grad()
            torch.stack(losses).sum().backward()
            optimizer.step()
            schedule.step()
    return probe


def mean_of_images(values: Sequence[float], seed: int = 0, resamples: int = 4000) -> tuple[float, float, float]:
    """The mean over images with its 95% percentile bootstrap interval: tokens of one image are no separate evidence.

    Args:
        values: one per image, such as the share of its cells that were right.
        seed: of the bootstrap.
        resamples: of the bootstrap.

    Returns:
        Mean, low, high; (0, -1, 1) for no images.
    """
    if not len(values):
        return 0.0, -1.0, 1.0
    each = np.asarray(values, dtype=float)
    drawn = np.random.default_rng(seed).integers(len(each), size=(resamples, len(each)))
    low, high = np.quantile(each[drawn].mean(1), [0.025, 0.975])
    return float(each.mean()), float(low), float(high)
