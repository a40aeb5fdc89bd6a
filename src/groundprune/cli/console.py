"""What all commands share: one line for what is wrong, silence from the libraries, a model that is ready."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import typer

from groundprune.errors import GroundPruneError


def complain(message: str, code: int = 2) -> int:
    """One line on stderr, whatever the message holds; returns the exit code."""
    typer.echo(f"groundprune: {' '.join(message.split())}", err=True)
    return code


def print_json(value: Any) -> None:
    """One JSON value, alone on stdout. NaN, which is no JSON, is an error in our code."""
    typer.echo(json.dumps(value, indent=2, allow_nan=False))


def quieten() -> None:
    """No logging and no bars from transformers; downloads still show their progress to a person."""
    from huggingface_hub.utils import enable_progress_bars
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if sys.stderr.isatty():
        enable_progress_bars()


def pick_device(name: str | None) -> str:
    """`name`, if a tensor can be put there; None = the GPU where there is one. Raises GroundPruneError."""
    import torch

    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.ones(1, device=name).item()  # a value comes back: `meta` is a device without any
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise GroundPruneError(f"device {name!r} cannot be used: {reason}") from error
    return name


def open_model(source: str, device: str | None, dtype: str = "auto") -> tuple[Any, Any]:
    """(model, processor), on the device of `pick_device`."""
    from groundprune.loading import load

    quieten()
    return load(source, device=pick_device(device), dtype=dtype)


def writable_image(path: Path) -> Path:
    """`path`, if Pillow can write a picture there; asked before the work, not after it.

    Raises GroundPruneError with the reason.
    """
    from PIL import Image

    known = Image.registered_extensions()
    if path.is_dir():
        raise GroundPruneError(f"{path}: is a folder, give a file to write")
    if not path.absolute().parent.is_dir():
        raise GroundPruneError(f"{path}: there is no folder {path.parent}")
    if known.get(path.suffix.lower()) not in Image.SAVE:
        raise GroundPruneError(f"{path}: no image type is known by {path.suffix!r}; .png always works")
    return path


def save_image(picture: Any, path: Path) -> None:
    """Raises GroundPruneError where the disk or the format refuses."""
    try:
        picture.save(path)
    except (OSError, ValueError) as error:
        raise GroundPruneError(f"{path}: cannot be written ({error})") from error
