"""groundprune: prune the visual tokens of multimodal LLMs without losing their sense of where things are."""

from __future__ import annotations

import importlib

from groundprune.version import __version__ as __version__

TYPE_CHECKING = False  # as typing has it, whose import Ctrl-C would find on its way to the command line
if TYPE_CHECKING:
    from typing import Any

    from groundprune.answers import Answer, answer, inputs_for
    from groundprune.audits.context import audit, auditing, check
    from groundprune.audits.result import Audit
    from groundprune.checkpoints.load import load
    from groundprune.data.scenes import DrawnScene, scene
    from groundprune.errors import GroundPruneError, Unservable
    from groundprune.exactness.verify import Verification, verify
    from groundprune.integrations.vllm import vllm_overrides
    from groundprune.pruners import Merge, Pruner, Selection, Stage, make_pruner, pruner_names, register
    from groundprune.pruning.context import Run, prune
    from groundprune.pruning.encode_once import EncodedImages, encode
    from groundprune.pruning.inputs import PrunedInputs, prune_inputs
    from groundprune.signals import Need, Signals
    from groundprune.tokens.compaction import Policy
    from groundprune.tokens.layout import VisualLayout

# Imported when first asked for: torch and transformers take seconds, and `groundprune --help` needs neither.
_MODULES = {
    "answers": ("Answer", "answer", "inputs_for"),
    "audits.context": ("audit", "auditing", "check"),
    "audits.result": ("Audit",),
    "data.scenes": ("DrawnScene", "scene"),
    "errors": ("GroundPruneError", "Unservable"),
    "integrations.vllm": ("vllm_overrides",),
    "tokens.layout": ("VisualLayout",),
    "checkpoints.load": ("load",),
    "tokens.compaction": ("Policy",),
    "pruners": ("Merge", "Pruner", "Selection", "Stage", "make_pruner", "pruner_names", "register"),
    "pruning.context": ("Run", "prune"),
    "pruning.encode_once": ("EncodedImages", "encode"),
    "pruning.inputs": ("PrunedInputs", "prune_inputs"),
    "signals": ("Need", "Signals"),
    "exactness.verify": ("Verification", "verify"),
}  # fmt: skip
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "Answer",
    "Audit",
    "DrawnScene",
    "EncodedImages",
    "GroundPruneError",
    "Merge",
    "Need",
    "Policy",
    "PrunedInputs",
    "Pruner",
    "Run",
    "Selection",
    "Signals",
    "Stage",
    "Unservable",
    "Verification",
    "VisualLayout",
    "answer",
    "audit",
    "auditing",
    "check",
    "encode",
    "inputs_for",
    "load",
    "make_pruner",
    "prune",
    "prune_inputs",
    "pruner_names",
    "register",
    "scene",
    "verify",
    "vllm_overrides",
]


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        value = getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    elif not name[:1].isupper() or name not in (methods := _methods()):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    else:
        value = methods[name]
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_methods()})


def _methods() -> dict[str, type[Pruner]]:
    """The pruners of this package by class, `gp.FastV`; each is found by its file, and stands in no list."""
    from groundprune.pruners import METHODS

    return METHODS
