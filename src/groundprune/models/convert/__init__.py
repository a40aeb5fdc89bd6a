"""Checkpoints in the layout of transformers, from the files that the models' authors published."""

from groundprune.models.convert.minigpt_v2 import convert_minigpt_v2
from groundprune.models.convert.result import Conversion
from groundprune.models.convert.shikra import convert_shikra

__all__ = ["Conversion", "convert_minigpt_v2", "convert_shikra"]
