"""What all commands share: one line for what is wrong, silence from the libraries, a model that is ready."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from groundprune.errors import GroundPruneError

if TYPE_CHECKING:
    from groundprune.evaluation import Summary


def complain(message: str, code: int = 2) -> int:
    """One line on stderr, whatever the message holds; returns the exit code."""
    with contextlib.suppress(OSError):  # nowhere is left to say it
        typer.echo(f"groundprune: {' '.join(message.split())}", err=True)
    return code


def write_anything() -> None:
    """What the terminal's encoding lacks is written as escapes, in place of an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def drop_output() -> None:
    """What stdout still holds cannot be written: Python must not try again as it ends."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def utf8(word: str) -> str:
    """A word of the command line as text, also where the locale's encoding is ASCII.

    Raises GroundPruneError where it is not UTF-8.
    """
    if word.isascii() or not any("\udc80" <= character <= "\udcff" for character in word):
        return word
    try:
        return os.fsencode(word).decode("utf-8")
    except UnicodeError as error:
        raise GroundPruneError(f"{word!a} is not text in UTF-8") from error


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


def progress(text: str) -> None:
    """What is going on, for a person who waits; a pipe or a log does not."""
    if sys.stderr.isatty():
        typer.echo(f"groundprune: {text} ...", err=True)


def announce(source: str) -> None:
    """Say that a model is being loaded, which takes seconds; what is not there is refused before torch is."""
    from groundprune.checkpoints.hub import refuse_unreachable

    progress(f"loading {source}")
    refuse_unreachable(source)


def open_model(source: str, device: str | None, dtype: str = "auto") -> tuple[Any, Any]:
    """(model, processor), see `gp.load`."""
    from groundprune.checkpoints.load import load

    quieten()
    return load(source, device=device, dtype=dtype)


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
    """Raises GroundPruneError where the disk or the format refuses; what was there before is still there then."""
    from groundprune.report.writing import replacing

    try:
        with replacing(path) as draft:
            picture.save(draft)
    except (OSError, ValueError) as error:
        raise GroundPruneError(f"{path}: cannot be written ({getattr(error, 'strerror', None) or error})") from error


def show_summary(summary: Summary, out: Path | None, as_json: bool, costs: bool = False) -> None:
    """Print what a run found, and write its report where there is a folder for it: its name is the last line.

    costs: the table of them, too.
    """
    page = None
    if out is not None:
        from groundprune.report.page import write_report

        page = write_report(out)
    if as_json:
        print_json(summary.to_json())
        return
    from rich.console import Console

    from groundprune.report.tables import print_tables

    # A pipe has no width, and a table cut at 80 columns loses numbers.
    print_tables(summary, Console(width=None if sys.stdout.isatty() else 200), costs)
    if page is None:
        typer.echo("report   none: --out FOLDER writes one")
    else:
        typer.echo(f"results  {out}")
        typer.echo(f"report   {page}")
