"""The options of a method: the fields of its class beside the budget, and what its docstring says of each."""

from __future__ import annotations

import inspect
import re
from dataclasses import MISSING, dataclass, fields
from fractions import Fraction
from types import NoneType
from typing import Any, get_args, get_type_hints

from groundprune.errors import GroundPruneError
from groundprune.pruners.base import Pruner

BUDGET = ("keep", "tokens")
_TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_CALLED = {bool: "true or false", int: "a whole number", float: "a number", Fraction: "a number", str: "text"}


class Quoted(str):
    """Text that is meant as it is, because it stood in quotes or never was a word of a spec: "none" is no None."""


@dataclass(frozen=True)
class Option:
    """A field of a method beside its budget; meaning: what the class says of it under `Args:`."""

    name: str
    kinds: tuple[type, ...]
    default: Any
    meaning: str = ""

    @property
    def type(self) -> str:
        return " | ".join("None" if kind is NoneType else kind.__name__ for kind in self.kinds)

    def to_dict(self) -> dict[str, Any]:
        """For JSON; null where a value must be given."""
        plain = self.default if isinstance(self.default, bool | int | float | str | None) else str(self.default)
        return {
            "name": self.name,
            "type": self.type,
            "default": None if self.default is MISSING else plain,
            "meaning": self.meaning,
        }

    def kept(self, value: Any) -> Any:
        """A value as `read` would give it: 1 is 1.0 where a number may have a fraction."""
        if isinstance(value, str):
            return Quoted(value)
        whole = isinstance(value, int) and not isinstance(value, bool) and int not in self.kinds
        return float(value) if whole and float in self.kinds else value

    def read(self, text: str, label: str) -> Any:
        """A value from text. Raises GroundPruneError, naming the pruner `label`, where it is none of `kinds`."""
        if NoneType in self.kinds and text.lower() == "none" and not isinstance(text, Quoted):
            return None
        for kind in (kind for kind in _CALLED if kind in self.kinds):
            try:
                return _TRUTH[text.lower()] if kind is bool else str(text) if kind is str else kind(text)
            except (ValueError, KeyError, ZeroDivisionError):
                continue
        allowed = [name for kind, name in _CALLED.items() if kind in self.kinds] + ["none"] * (NoneType in self.kinds)
        if not allowed or allowed == ["none"]:
            raise GroundPruneError(f"{label}: {self.name} is a {self.type}, which text cannot say: set it in Python")
        raise GroundPruneError(f"{label}: {self.name} must be {' or '.join(allowed)} (got {str(text)!r})")


def options_of(cls: type[Pruner]) -> list[Option]:
    """The options of a method, in the order of its fields."""
    try:
        hints = get_type_hints(cls)
    except Exception:  # a name of one's own file that is imported for type checkers alone
        hints = {}
    meanings: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        meanings |= _meanings(vars(base).get("__doc__") or "")
    found: list[Option] = []
    for each in (f for f in fields(cls) if f.init and f.name not in BUDGET):
        default = each.default if each.default_factory is MISSING else each.default_factory()
        hint = hints.get(each.name, str if default is MISSING else type(default))
        kinds = tuple(kind for kind in get_args(hint) or (hint,) if isinstance(kind, type))
        found.append(Option(each.name, kinds, default, meanings.get(each.name, "")))
    return found


def _meanings(doc: str) -> dict[str, str]:
    """By name, what stands under `Args:` in a docstring."""
    _, _, after = inspect.cleandoc(doc).partition("Args:\n")
    found: dict[str, str] = {}
    last = ""
    for line in after.splitlines():
        if not line.startswith(" "):
            break
        entry = re.match(r"    (\w+): (.*)", line)
        last, text = (entry[1], entry[2]) if entry else (last, line.strip())
        found[last] = f"{found[last]} {text}" if last in found else text
    return found
