"""One pruning method per file; importing this package registers them all."""

from groundprune.pruners.base import Merge, Pruner, Selection, Stage, select_top
from groundprune.pruners.cls_visual import ClsVisual
from groundprune.pruners.random import Random
from groundprune.pruners.registry import make_pruner, pruner_class, pruner_names, register
from groundprune.pruners.spatial import Spatial, select_spatial
from groundprune.pruners.text_visual import TextVisual

__all__ = [
    "ClsVisual",
    "Merge",
    "Pruner",
    "Random",
    "Selection",
    "Spatial",
    "Stage",
    "TextVisual",
    "make_pruner",
    "pruner_class",
    "pruner_names",
    "register",
    "select_spatial",
    "select_top",
]
