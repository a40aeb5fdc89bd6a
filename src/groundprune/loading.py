"""Load a checkpoint with stock classes and with the preprocessing that its boxes are measured in."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from groundprune.errors import GroundPruneError
from groundprune.families.base import Grounding, family_of
from groundprune.pocket import checkpoint_path

POCKET = "pocket"


def load(
    source: str | Path = POCKET,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str = "auto",
    **options: Any,
) -> tuple[Any, Any]:
    """(model, processor) of a local folder, a Hub id, or "pocket", the embedded model.

    The model is in eval mode; the processor pads images as the family's boxes need (see `Family.prepare_processor`).
    options go to `from_pretrained`. On a CPU, without a dtype given, weights are widened to fp32: faster there.

    Raises GroundPruneError where there is no checkpoint, and Unservable for a text-only or unknown model type.
    """
    folder = checkpoint_path() if str(source) == POCKET else source
    try:
        config: Any = AutoConfig.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise GroundPruneError(f"no checkpoint at {str(source)!r}: {_first_line(error)}") from error
    family = family_of(config)
    on_cpu = torch.device(device or "cpu").type == "cpu" and "device_map" not in options
    if dtype == "auto" and on_cpu:
        dtype = torch.float32
    try:
        model: Any = AutoModelForImageTextToText.from_pretrained(folder, config=config, dtype=dtype, **options).eval()
        processor = AutoProcessor.from_pretrained(folder)
    except (OSError, ValueError, SafetensorError) as error:
        raise GroundPruneError(f"cannot load the checkpoint at {str(source)!r}: {_first_line(error)}") from error
    if device is not None:
        model = model.to(device)
    return model, family.prepare_processor(processor)


def grounding_of(model: Any) -> Grounding:
    """How this checkpoint is asked for boxes: its folder's `grounding.json` if there is one, else its family's way.

    Raises GroundPruneError for a file that is no JSON object or has unknown keys.
    """
    default = family_of(model.config).grounding
    path = Path(getattr(model.config, "_name_or_path", "") or ".") / "grounding.json"
    if not path.is_file():
        return default
    names = {field.name for field in fields(Grounding)}
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
        unknown_keys = set(given) - names
        wrong = [key for key, value in given.items() if not isinstance(value, str)]
    except (ValueError, TypeError) as error:
        raise GroundPruneError(f"{path} is no JSON object: {_first_line(error)}") from error
    if unknown_keys:
        raise GroundPruneError(f"{path} has unknown keys {sorted(unknown_keys)} (allowed: {sorted(names)})")
    if wrong:
        raise GroundPruneError(f"{path}: the values of {wrong} must be text")
    return replace(default, **given)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
