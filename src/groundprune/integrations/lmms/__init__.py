"""The model `groundprune` of lmms-eval: its tasks and its scores, with pruned visual tokens.

lmms-eval finds `manifest` by the entry point group `lmms_eval.models`; `--model groundprune` is all that it takes.
"""

from __future__ import annotations

from typing import Any


def manifest() -> Any:
    """What lmms-eval registers: the chat variant, and with `--force_simple` the simple one.

    Returns:
        lmms-eval's ModelManifest.
    """
    from lmms_eval.models.registry_v2 import ModelManifest

    chat = f"{__name__}.model.Groundprune"
    return ModelManifest("groundprune", simple_class_path=f"{chat}Simple", chat_class_path=chat)
