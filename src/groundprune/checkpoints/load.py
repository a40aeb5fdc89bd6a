"""Load a checkpoint with stock classes and with the preprocessing that its boxes are measured in."""

from __future__ import annotations

import contextlib
import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from transformers import AutoConfig, AutoModelForImageTextToText
from transformers.utils import cached_file

from groundprune.checkpoints.adapters import adapter_base, add_adapter, has_processor
from groundprune.checkpoints.hub import POCKET, asking_once, refuse_unreachable, source_of
from groundprune.checkpoints.processor import load_processor
from groundprune.errors import GroundPruneError, first_line, unknown
from groundprune.families.base import family_of
from groundprune.families.grounding import Grounding

DTYPES = ("auto", "float32", "bfloat16", "float16")
HUB = ("revision", "cache_dir", "token", "local_files_only")
OPTIONS = (
    *HUB, "trust_remote_code", "quantization_config", "attn_implementation", "device_map", "max_memory",
    "offload_folder", "offload_buffers",
)  # fmt: skip


def checkpoint_folder(source: str | Path) -> Path:
    """The folder of a checkpoint; of one on the Hub, that of its cache, downloaded as a whole where it is not there.

    Args:
        source: see `load`.

    Returns:
        A folder that exists.

    Raises:
        GroundPruneError: there is none.
    """
    folder = Path(source_of(source))
    if folder.is_dir():
        return folder
    try:
        with asking_once(source):
            return Path(
                snapshot_download(str(source), allow_patterns=["*.safetensors", "*.json", "*.jinja", "*.model"])
            )
    except Exception as error:  # whatever the network makes of it
        raise GroundPruneError(f"no checkpoint at {str(source)!r}: {first_line(error)}") from error


def read_config(source: str | Path, trust_remote_code: bool = False, **hub: Any) -> Any:
    """The config of a checkpoint.

    Args:
        source: see `load`.
        trust_remote_code: as in `from_pretrained`.
        **hub: those of HUB, likewise.

    Returns:
        A transformers config; of an adapter that of the model that it adapts.

    Raises:
        GroundPruneError: there is none.
    """
    refuse_unreachable(source, **hub)
    # Exception: a damaged folder makes the libraries raise nearly anything.
    try:
        base = adapter_base(source, **hub)
        if base is not None:
            return read_config(base, trust_remote_code, **_of_the_base(hub))
        with asking_once(source, **hub):
            return AutoConfig.from_pretrained(source_of(source), trust_remote_code=trust_remote_code, **hub)
    except GroundPruneError:
        raise
    except Exception as error:
        raise GroundPruneError(f"no checkpoint at {str(source)!r}: {first_line(error)}") from error


def usable_device(device: str | torch.device | None = None) -> torch.device:
    """The device, if a tensor can be put there.

    Args:
        device: None = the GPU where there is one, else the CPU.

    Returns:
        torch.device.

    Raises:
        GroundPruneError: none can.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.ones(1, device=device).item()  # a value comes back: `meta` is a device without any
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise GroundPruneError(f"device {str(device)!r} cannot be used: {first_line(error)}") from error
    return torch.device(device)


def load(
    source: str | Path = POCKET,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str = "auto",
    **options: Any,
) -> tuple[Any, Any]:
    """Load a checkpoint with stock classes.

    Args:
        source: a local folder, a Hub id, "pocket", the embedded model, or "smol", which `make smol` puts together.
        device: by default the GPU where there is one, else the CPU.
        dtype: a torch.dtype or one of DTYPES; "auto" is the checkpoint's own, and fp32 on a CPU: faster there.
        **options: those of OPTIONS, as in `from_pretrained`: `quantization_config`, `attn_implementation`,
            `device_map`, where accelerate places the model, with `max_memory`, `offload_folder` and
            `offload_buffers`; `trust_remote_code`, off unless given; and where files come from, of the processor
            too: `revision`, `cache_dir`, `token`, `local_files_only`.

    Returns:
        The model, in eval mode, and its processor, which pads images as the family's boxes need. Of a checkpoint that
        holds a PEFT adapter: the model that it adapts, with the adapter in its layers, switched on; the processor is
        the base's where the adapter's folder has none, and `revision` is the adapter's.

    Raises:
        GroundPruneError: no checkpoint, no such device, dtype or option, options that contradict each other, or a
            checkpoint that lacks weights.
        Unservable: a text-only model.
    """
    if not isinstance(dtype, torch.dtype) and dtype not in DTYPES:
        raise unknown("dtype", dtype, DTYPES)
    for name in options:
        if name not in OPTIONS:
            raise unknown("option", name, OPTIONS)
    if device is not None and options.get("device_map") is not None:
        raise GroundPruneError(f"give either device={str(device)!r} or device_map, not both")
    place = usable_device(device) if options.get("device_map") is None else None
    trusted = bool(options.pop("trust_remote_code", False))
    hub = {name: options.pop(name) for name in HUB if name in options}
    config = read_config(source, trusted, **hub)
    family = family_of(config)
    if dtype == "auto" and place is not None and place.type == "cpu":
        dtype = torch.float32
    quantised = options.get("quantization_config") is not None or hasattr(config, "quantization_config")
    if place is not None and quantised:
        # Quantised weights are made where they stay: not every format can be moved.
        options["device_map"], place = {"": place}, None
    try:
        base = adapter_base(source, **hub)
        weights, theirs = (source, hub) if base is None else (base, _of_the_base(hub))
        with asking_once(source, **hub):
            loaded: Any = AutoModelForImageTextToText.from_pretrained(
                source_of(weights), config=config, dtype=dtype, output_loading_info=True,
                trust_remote_code=trusted, **theirs, **options,
            )  # fmt: skip
            model, found = loaded
            _refuse_random_weights(str(weights), found)
            if base is not None:
                add_adapter(model, source, **hub)
            own = base is None or has_processor(source)
            words, where = (source, hub) if own else (weights, theirs)
            processor = load_processor(source_of(words), config, trusted, **where)
    except GroundPruneError:
        raise
    except Exception as error:
        raise GroundPruneError(f"cannot load the checkpoint at {str(source)!r}: {first_line(error)}") from error
    model = model.eval()
    if quantised:
        model.requires_grad_(False)  # codes have no gradient, and 4-bit kernels of bitsandbytes fail on one of a bias
    if place is not None:
        model = model.to(place)
    return model, family.prepare_processor(processor)


def _of_the_base(hub: dict[str, Any]) -> dict[str, Any]:
    """An adapter's revision is none of its base's."""
    return {name: value for name, value in hub.items() if name != "revision"}


def grounding_of(model: Any) -> Grounding:
    """How a checkpoint is asked for boxes: its folder's `grounding.json` if there is one, else its family's way.

    Args:
        model: what `load` gives.

    Returns:
        Grounding.

    Raises:
        GroundPruneError: a file that is no JSON object or has unknown keys.
    """
    default = family_of(model.config).grounding
    source = getattr(model.config, "_name_or_path", "")
    # A folder, or a Hub checkpoint whose files are in the cache by now.
    quietly = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    with asking_once(source) if source else contextlib.nullcontext():
        found = cached_file(source, "grounding.json", **quietly) if source else None
    if found is None:
        return default
    path = Path(found)
    names = {field.name for field in fields(Grounding)}
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise GroundPruneError(f"{path} is no JSON object: {first_line(error)}") from error
    if not isinstance(given, dict):
        raise GroundPruneError(f"{path} is no JSON object but a {type(given).__name__}")
    unknown_keys = set(given) - names
    wrong = [key for key, value in given.items() if not isinstance(value, str)]
    if unknown_keys:
        raise GroundPruneError(f"{path} has unknown keys {sorted(unknown_keys)} (allowed: {sorted(names)})")
    if wrong:
        raise GroundPruneError(f"{path}: the values of {wrong} must be text")
    return replace(default, **given)


def _refuse_random_weights(source: str, found: Any) -> None:
    """transformers fills in what a checkpoint lacks at random, with a warning; its answers would be noise."""
    absent = sorted(found["missing_keys"]) + sorted(str(key) for key in found["mismatched_keys"])
    if absent:
        raise GroundPruneError(
            f"the checkpoint at {source!r} lacks {len(absent)} of the model's weights, or has them in another shape "
            f"(the first: {absent[0]})"
        )
