"""Checkpoints that hold an adapter alone (LoRA and what else PEFT saves), and name the model that it belongs to."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

from transformers.utils.peft_utils import find_adapter_config_file

from groundprune.checkpoints.hub import asking_once, source_of
from groundprune.errors import GroundPruneError, first_line

PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json")


def adapter_base(source: str | Path, **hub: Any) -> str | None:
    """What a checkpoint with an adapter adapts.

    Args:
        source: see `groundprune.load`.
        **hub: `revision`, `cache_dir`, `token`, `local_files_only`, as in `from_pretrained`.

    Returns:
        Folder or Hub id of the model; None where the checkpoint is a whole model, with an adapter in it or without.

    Raises:
        GroundPruneError: PEFT is not installed, or the adapter does not say what it adapts.
    """
    folder = source_of(source)
    with asking_once(source, **hub):
        found = find_adapter_config_file(str(folder), **hub)
    if found is None:
        return None
    if importlib.util.find_spec("peft") is None:
        raise GroundPruneError(
            f"{str(source)!r} holds an adapter, which needs peft: pip install groundprune[adapters]"
        )
    if Path(found).with_name("config.json").is_file():
        return None
    try:
        base = json.loads(Path(found).read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (ValueError, KeyError, TypeError) as error:
        raise GroundPruneError(f"{found} names no base_model_name_or_path: {first_line(error)}") from error
    if not isinstance(base, str) or not base:
        raise GroundPruneError(f"{found} names no base_model_name_or_path (got {base!r})")
    return base


def add_adapter(model: Any, source: str | Path, **hub: Any) -> None:
    """Put the adapter into the model's layers, switched on.

    Args:
        model: what the adapter adapts.
        source: the checkpoint with the adapter.
        **hub: see `adapter_base`.

    Raises:
        GroundPruneError: the adapter's file lacks weights.
    """
    local = hub.pop("local_files_only", False)
    info = model.load_adapter(str(source_of(source)), local_files_only=local, adapter_kwargs=hub)
    if info.missing_keys:
        raise GroundPruneError(
            f"the adapter at {str(source)!r} lacks {len(info.missing_keys)} of its weights "
            f"(the first: {min(info.missing_keys)})"
        )


def has_processor(source: str | Path) -> bool:
    """Whether a folder with an adapter holds a processor too; of one on the Hub the base's is taken."""
    return any((Path(source_of(source)) / name).is_file() for name in PROCESSOR_FILES)
