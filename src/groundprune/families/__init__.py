"""One short file per model family; importing this package registers them all."""

import importlib
import pkgutil

from groundprune.families.base import Family, families, family_of
from groundprune.families.grounding import Grounding

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["Family", "Grounding", "families", "family_of"]
