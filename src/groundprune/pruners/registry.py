"""Pruners by name. A method's file registers its class; a class of one's own is named as file.py:Class."""

from __future__ import annotations

import functools
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from groundprune.errors import GroundPruneError, Unservable, first_line, unknown
from groundprune.pruners.base import Pruner
from groundprune.signals import Need
from groundprune.tokens.positions import parse_policy

_PRUNERS: dict[str, type[Pruner]] = {}
_FROM_FILES: dict[type[Pruner], str] = {}  # the names that led to them
P = TypeVar("P", bound=Pruner)


def register(cls: type[P]) -> type[P]:
    """Class decorator: make a pruner known under its `name`. Raises GroundPruneError for a name that is taken."""
    if not cls.name:
        raise GroundPruneError(f"{cls.__name__} has no `name` to register it under")
    if any(mark in cls.name for mark in ':,="') or cls.name != cls.name.strip():
        raise GroundPruneError(f"a pruner's name is a word without ':', ',', '=' or quotes (got {cls.name!r})")
    parse_policy("official", cls.official_positions)
    if _PRUNERS.setdefault(cls.name, cls) is not cls:
        raise GroundPruneError(f"a pruner named {cls.name!r} is registered already")
    return cls


def pruner_names() -> list[str]:
    """The names of all registered pruners, sorted."""
    return sorted(_PRUNERS)


def pruner_class(name: str) -> type[Pruner]:
    """The class registered as `name`, or the one that "path/to/file.py:Class" names.

    Raises GroundPruneError for an unknown name (with the nearest), file or class.
    """
    if name in _PRUNERS:
        return _PRUNERS[name]
    path, colon, attribute = name.rpartition(":")
    if colon and path.endswith(".py"):
        return _from_file(Path(path), attribute)
    raise unknown("pruner", name, [*_PRUNERS, "path/to/file.py:Class"])


def servable(check: Callable[[Need], None]) -> list[str]:
    """The registered pruners whose every need passes `check`, which raises GroundPruneError for one that does not."""
    return [name for name in pruner_names() if not any(_raises(check, need) for need in _PRUNERS[name].needs)]


def refusal(pruner: Pruner, error: GroundPruneError, check: Callable[[Need], None]) -> Unservable:
    """Why a model cannot run a pruner, and which ones it can: those that read the most of the image first."""
    can = sorted(servable(check), key=lambda name: -len(_PRUNERS[name].needs))
    return Unservable(f"{pruner.label}: {error}; this model can run: {', '.join(can) or 'none'}")


def _raises(check: Callable[[Need], None], need: Need) -> bool:
    try:
        check(need)
    except GroundPruneError:
        return True
    return False


def name_of(cls: type[Pruner]) -> str:
    """The name that leads to a class, see `pruner_class`; "" where none does."""
    return cls.name if _PRUNERS.get(cls.name) is cls else _FROM_FILES.get(cls, "")


def _from_file(path: Path, attribute: str) -> type[Pruner]:
    if not path.is_file():
        raise GroundPruneError(f"no pruner file {str(path)!r}")
    module = module_of(path)
    cls = getattr(module, attribute, None)
    if not (isinstance(cls, type) and issubclass(cls, Pruner)):
        pruners = [k for k, v in vars(module).items() if isinstance(v, type) and issubclass(v, Pruner)]
        found = ", ".join(name for name in pruners if name != "Pruner")
        raise GroundPruneError(f"{path} has no pruner class {attribute!r} (found: {found or 'none'})")
    if cls.__module__ == module.__name__ and cls.name not in _PRUNERS:
        cls.name = attribute  # one name for it, everywhere: results call it by its class
    _FROM_FILES.setdefault(cls, f"{path}:{attribute}")
    return cls


def module_of(path: Path) -> ModuleType:
    """The module of a Python file that exists. Raises GroundPruneError where it cannot be run."""
    return _module(path.resolve())


@functools.cache
def _module(path: Path) -> ModuleType:
    """The file's module; run once, for it may register its classes."""
    # A name of its own: a file called random.py must not stand in for the library's.
    spec = importlib.util.spec_from_file_location(f"groundprune_file_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their own module up there
    try:
        spec.loader.exec_module(module)
    except GroundPruneError:
        raise
    except (Exception, SystemExit) as error:
        raise GroundPruneError(f"{path} cannot be run: {type(error).__name__}: {first_line(error)}") from error
    return module
