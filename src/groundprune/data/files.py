"""Reading JSON, with errors that name the file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from groundprune.errors import GroundPruneError, first_line

T = TypeVar("T")


def read_json(path: Path) -> Any:
    """Raises GroundPruneError for a file that is missing or no JSON."""
    return _read(path, json.loads)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSONL file, blank lines left out. Raises GroundPruneError, naming the line."""
    found = []
    for number, line in enumerate(_read(path, str.splitlines), start=1):
        if line.strip():
            try:
                value = json.loads(line)
            except ValueError:
                value = None
            if not isinstance(value, dict):
                raise GroundPruneError(f"{path}, line {number}: no JSON object")
            found.append(value)
    return found


def _read(path: Path, parse: Callable[[str], T]) -> T:
    try:
        return parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise GroundPruneError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise GroundPruneError(f"{path} cannot be read: {first_line(error)}") from error


@contextmanager
def in_format(where: object, format: str) -> Iterator[None]:
    """Makes what a missing or odd entry raises into one line that names the place and the format."""
    try:
        yield
    except GroundPruneError:
        raise
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise GroundPruneError(f"{where} is not in the format of {format} ({reason})") from error
