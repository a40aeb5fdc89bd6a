"""One short file per model family; importing this package registers them all."""

from groundprune.families.base import Family, Grounding, family_of
from groundprune.families.llava import Llava

__all__ = ["Family", "Grounding", "Llava", "family_of"]
