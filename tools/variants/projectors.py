"""What stands between tower and language model in the variants: other projectors, and explicit coordinates."""

import math

import torch
from torch import Tensor, nn

OCTAVES = 4  # of the waves in which coordinates are given, from one across the image on


class ConvProjector(nn.Module):
    """A 3 x 3 convolution over the grid of patches, then a linear layer."""

    def __init__(self, width: int, out: int):
        super().__init__()
        self.near, self.out = nn.Conv2d(width, out, 3, padding=1), nn.Linear(out, out)

    def forward(self, features: Tensor) -> Tensor:
        """[B, side^2, width] to [B, side^2, out]"""
        side = math.isqrt(features.shape[1])
        grid = features.transpose(1, 2).unflatten(2, (side, side))
        return self.out(nn.functional.gelu(self.near(grid).flatten(2).transpose(1, 2)))


class WithCoordinates(nn.Module):
    """A projector whose input, or output, has a learned function of each patch's row and column added."""

    def __init__(self, inner: nn.Module, width: int, before: bool):
        super().__init__()
        self.inner, self.before = inner, before
        self.place = nn.Linear(4 * OCTAVES, width, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """[B, side^2, width] to [B, side^2, out]"""
        place = self.place(coordinates(math.isqrt(features.shape[1]), features.device))
        return self.inner(features + place) if self.before else self.inner(features) + place


def coordinates(side: int, device: torch.device | None = None) -> Tensor:
    """Sine and cosine of row and column in octaves: float [side^2, 4 * OCTAVES], of patches in raster order."""
    cell = torch.arange(side * side, device=device)
    at = (torch.stack([cell // side, cell % side], 1) + 0.5) / side
    waves = (at[:, :, None] * math.pi * 2.0 ** torch.arange(OCTAVES, device=device)).flatten(1)
    return torch.cat([waves.sin(), waves.cos()], 1)
