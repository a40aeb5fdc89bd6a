"""A folder that one run writes to at a time, and files that are there as a whole."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from filelock import FileLock, Timeout

from groundprune.errors import GroundPruneError

HOLDER_FILE = ".running"


@contextlib.contextmanager
def alone(folder: Path, about: Mapping[str, Any]) -> Iterator[None]:
    """Keeps other runs out of a folder; a killed process lets go. Raises GroundPruneError where one runs."""
    lock, note = FileLock(folder / f"{HOLDER_FILE}.lock", thread_local=False), folder / HOLDER_FILE
    try:
        lock.acquire(blocking=False)
    except Timeout:
        who = " ".join(note.read_text(encoding="utf-8").split()) if note.is_file() else "which left no name"
        raise GroundPruneError(
            f"{folder} is being written to by another run ({who}): wait for it, or choose another folder"
        ) from None
    try:
        command = about.get("command", "unknown command")
        note.write_text(f"process {os.getpid()} on {platform.node()}: {command}\n", encoding="utf-8")
        yield
    finally:
        note.unlink(missing_ok=True)
        lock.release()


@contextlib.contextmanager
def writing(folder: Path | None) -> Iterator[None]:
    """Makes what the disk refuses into one line."""
    try:
        yield
    except OSError as error:
        raise GroundPruneError(f"cannot write results to {folder}: {error.strerror or error}") from error


def replace(path: Path, text: str) -> None:
    """The whole of a file at once, on disk when this returns."""
    temporary = path.with_name(f"{path.name}.tmp")
    with temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def close(file: TextIO) -> None:
    """What a full disk refused was reported when it was written."""
    with contextlib.suppress(OSError):
        file.close()
