"""The CLIP text tower of pruners that compare patches with the request."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from groundprune.errors import Unservable
from groundprune.probes.clip_text import find_text_tower
from groundprune.pruners.base import Pruner
from groundprune.signals import CLIP_TEXT, TextEmbedder


def embedder_for(
    pruner: Pruner, model: Any, text: Sequence[str] | None, text_tower: str | Path | TextEmbedder | None
) -> TextEmbedder:
    """What `text_tower` names, or the checkpoint's own. Raises Unservable where there is none, or no text."""
    if CLIP_TEXT in pruner.needs and text is None:
        raise Unservable(f"{pruner.label} reads the prompt's text: pass text=[...], one entry per prompt row")
    embedder = find_text_tower(text_tower, model)
    if embedder is None:
        raise Unservable(
            f"{pruner.label} needs a CLIP text tower and this checkpoint has none: pass text_tower=folder or Hub id "
            "(on the command line --text-tower) of the CLIP model whose vision tower this is"
        )
    return embedder
