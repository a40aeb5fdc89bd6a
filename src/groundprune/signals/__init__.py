"""What a pruner may score by, and how it declares it."""

from groundprune.signals.base import (
    CLIP_PATCHES,
    CLIP_TEXT,
    CLS_ATTENTION,
    FINGERPRINT,
    PROJECTOR,
    SALIENT,
    TOWER_CLS,
    TOWER_HIDDEN,
    VIDEO,
    Need,
)
from groundprune.signals.contracts import LLMStates, TextEmbedder
from groundprune.signals.record import TowerRecord
from groundprune.signals.row import Signals, cosine

__all__ = [
    "CLIP_PATCHES",
    "CLIP_TEXT",
    "CLS_ATTENTION",
    "FINGERPRINT",
    "PROJECTOR",
    "SALIENT",
    "TOWER_CLS",
    "TOWER_HIDDEN",
    "VIDEO",
    "LLMStates",
    "Need",
    "Signals",
    "TextEmbedder",
    "TowerRecord",
    "cosine",
]
