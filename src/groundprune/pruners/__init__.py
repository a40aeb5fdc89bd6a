"""One pruning method per file, found by itself: importing this package registers them all."""

from importlib import import_module
from pkgutil import iter_modules

from groundprune.pruners.base import Pruner
from groundprune.pruners.registry import pruner_class, pruner_names, refusal, register, servable
from groundprune.pruners.spec import Spec, make_pruner
from groundprune.tokens.selection import Affine, Merge, Selection, Stage

__all__ = [
    "Affine",
    "Merge",
    "Pruner",
    "Selection",
    "Spec",
    "Stage",
    "make_pruner",
    "pruner_class",
    "pruner_names",
    "refusal",
    "register",
    "servable",
]

for _found in iter_modules(__path__):
    import_module(f"{__name__}.{_found.name}")
METHODS = {pruner_class(name).__name__: pruner_class(name) for name in pruner_names()}
globals().update(METHODS)  # so that `from groundprune.pruners import FastV` needs no file
