"""One pruning method per file; importing this package registers them all."""

from groundprune.pruners.base import Pruner, Stage, select_top
from groundprune.pruners.cdpruner import CDPruner, select_cdpruner
from groundprune.pruners.cls_visual import ClsVisual
from groundprune.pruners.coverage import Coverage, select_coverage
from groundprune.pruners.dart import Dart, select_dart
from groundprune.pruners.divprune import DivPrune, select_divprune
from groundprune.pruners.fastervlm import FasterVLM, select_fastervlm
from groundprune.pruners.fastv import FastV, select_fastv
from groundprune.pruners.feather import Feather, select_feather
from groundprune.pruners.hiprune import HiPrune, select_hiprune
from groundprune.pruners.hired import HiRED, hired_budgets
from groundprune.pruners.ivc_prune import IVCPrune, select_ivcprune
from groundprune.pruners.nuwa import Nuwa, select_nuwa
from groundprune.pruners.prumerge import PruMerge, PruMergePlus, select_prumerge
from groundprune.pruners.pyramiddrop import PyramidDrop, select_pyramiddrop
from groundprune.pruners.random import Random
from groundprune.pruners.ranking import Merged, top
from groundprune.pruners.registry import make_pruner, pruner_class, pruner_names, refusal, register, servable
from groundprune.pruners.sparsevlm import SparseVLM
from groundprune.pruners.sparsevlm_rule import select_sparsevlm
from groundprune.pruners.spatial import Spatial, select_spatial
from groundprune.pruners.text_visual import TextVisual
from groundprune.pruners.tome import ToMe, select_tome
from groundprune.pruners.trim import Trim, outliers, select_trim
from groundprune.pruners.v2drop import V2Drop, select_v2drop
from groundprune.pruners.visionzip import VisionZip, select_visionzip
from groundprune.pruners.vispruner import VisPruner, select_vispruner
from groundprune.tokens.selection import Affine, Merge, Selection

__all__ = [
    "Affine",
    "CDPruner",
    "ClsVisual",
    "Coverage",
    "Dart",
    "DivPrune",
    "FastV",
    "FasterVLM",
    "Feather",
    "HiPrune",
    "HiRED",
    "IVCPrune",
    "Merge",
    "Merged",
    "Nuwa",
    "PruMerge",
    "PruMergePlus",
    "Pruner",
    "PyramidDrop",
    "Random",
    "Selection",
    "SparseVLM",
    "Spatial",
    "Stage",
    "TextVisual",
    "ToMe",
    "Trim",
    "V2Drop",
    "VisPruner",
    "VisionZip",
    "hired_budgets",
    "make_pruner",
    "outliers",
    "pruner_class",
    "pruner_names",
    "refusal",
    "register",
    "select_cdpruner",
    "select_coverage",
    "select_dart",
    "select_divprune",
    "select_fastervlm",
    "select_fastv",
    "select_feather",
    "select_hiprune",
    "select_ivcprune",
    "select_nuwa",
    "select_prumerge",
    "select_pyramiddrop",
    "select_sparsevlm",
    "select_spatial",
    "select_tome",
    "select_top",
    "select_trim",
    "select_v2drop",
    "select_visionzip",
    "select_vispruner",
    "servable",
    "top",
]
