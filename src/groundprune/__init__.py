"""groundprune: prune the visual tokens of multimodal LLMs without losing their sense of where things are."""

from groundprune.errors import GroundPruneError, Unservable
from groundprune.layout import VisualLayout
from groundprune.loading import load
from groundprune.positions import Policy
from groundprune.prune import EncodedImages, Run, encode, prune
from groundprune.pruners import (
    ClsVisual,
    Merge,
    Pruner,
    Random,
    Selection,
    Spatial,
    Stage,
    TextVisual,
    make_pruner,
    pruner_names,
    register,
)
from groundprune.signals import Need, Signals
from groundprune.verify import Verification, verify

__version__ = "0.1.0"

__all__ = [
    "ClsVisual",
    "EncodedImages",
    "GroundPruneError",
    "Merge",
    "Need",
    "Policy",
    "Pruner",
    "Random",
    "Run",
    "Selection",
    "Signals",
    "Spatial",
    "Stage",
    "TextVisual",
    "Unservable",
    "Verification",
    "VisualLayout",
    "encode",
    "load",
    "make_pruner",
    "prune",
    "pruner_names",
    "register",
    "verify",
]
