"""Streams of samples to evaluate on."""

from groundprune.data.samples import Sample
from groundprune.data.scenes import scene_samples

__all__ = ["Sample", "scene_samples"]
