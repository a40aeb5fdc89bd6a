"""One short file per model family; importing this package registers them all."""

from groundprune.families.base import Family, Grounding, family_of
from groundprune.families.llava import Llava
from groundprune.families.minigpt_v2 import MiniGPTv2
from groundprune.families.shikra import Shikra

__all__ = ["Family", "Grounding", "Llava", "MiniGPTv2", "Shikra", "family_of"]
