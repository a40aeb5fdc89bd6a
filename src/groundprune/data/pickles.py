"""Pickles without their danger: numbers, text and builtin containers, nothing that runs."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, NoReturn

from groundprune.errors import GroundPruneError, first_line

_CONTAINERS = {"set": set, "frozenset": frozenset}  # lists, tuples and dicts have codes of their own


class _BuiltinsOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module in ("builtins", "__builtin__") and name in _CONTAINERS:
            return _CONTAINERS[name]
        raise GroundPruneError(f"asks for {module}.{name}; only builtin containers are read")

    def persistent_load(self, pid: Any) -> NoReturn:
        raise GroundPruneError("refers to something outside of itself")


def read_pickle(path: Path) -> Any:
    """The value of a pickle that holds nothing but numbers, text, None and builtin containers.

    Raises GroundPruneError for any other one, before anything of it runs, and for one that cannot be read.
    """
    try:
        with path.open("rb") as file:
            # Python 2 wrote text as bytes.
            return _BuiltinsOnly(file, encoding="utf-8", errors="replace").load()
    except FileNotFoundError:
        raise GroundPruneError(f"{path}: no such file") from None
    except GroundPruneError as error:
        raise GroundPruneError(f"{path} {error}") from error
    except Exception as error:  # a damaged pickle makes the unpickler raise nearly anything
        raise GroundPruneError(f"{path} is no readable pickle: {first_line(error)}") from error
