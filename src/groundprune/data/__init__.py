"""Samples to evaluate on: benchmarks from their official files, data of one's own, generated scenes."""

from groundprune.data.check import check_data
from groundprune.data.samples import Sample
from groundprune.data.scenes import scene_samples
from groundprune.data.sources import DataSet, open_data

__all__ = ["DataSet", "Sample", "check_data", "open_data", "scene_samples"]
