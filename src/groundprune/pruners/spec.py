"""A pruner as text, `hired:alpha=0.3:keep=0.25`, and as data: all that names a pruner reads and prints it here.

    pruner   name, then option=value for each option, with `:` between them; keep= or tokens= give the budget
    name     of a registered pruner, or path/to/file.py:Class
    several  with `,` between them
What holds `:`, `,` or `=` itself stands in double quotes, in which a double quote is written twice.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from fractions import Fraction
from types import NoneType
from typing import Any, Self, get_args, get_type_hints

from groundprune.errors import GroundPruneError, unknown
from groundprune.pruners.base import Pruner
from groundprune.pruners.registry import name_of, pruner_class

BUDGET = ("keep", "tokens")
_TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_CALLED = {bool: "true or false", int: "a whole number", float: "a number", Fraction: "a number", str: "text"}


class Quoted(str):
    """Text that is meant as it is, because it stood in quotes or never was a word of a spec: "none" is no None."""


@dataclass(frozen=True)
class Spec:
    """All that makes a pruner: its fields are those of `to_dict`.

    Args:
        pruner: Registered name, or path/to/file.py:Class.
        keep: The budget in words; neither this nor `tokens` where it is given elsewhere.
        tokens: The budget in words.
        options: By name, those that are not the method's defaults; text is converted by the types of its fields.
    """

    pruner: str
    keep: str | None = None
    tokens: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @staticmethod
    def parse(text: str) -> Spec:
        """Of one pruner in text. Raises GroundPruneError for what is malformed; names are not looked up."""
        pieces = _split(text, ":")
        words = [_unquoted(piece) for piece in pieces]
        file = next(
            (i for i, word in enumerate(words[:-1]) if word.endswith(".py") and "=" not in pieces[i + 1]), None
        )
        n_name = 1 if file is None else file + 2
        given: dict[str, Any] = {}
        for piece in pieces[n_name:]:
            key, equals, value = piece.partition("=")
            if not equals or not key.strip().isidentifier():
                raise GroundPruneError(f"an option of a pruner is name=value (got {piece!r} in {text!r})")
            if key.strip() in given:
                raise GroundPruneError(f"{key.strip()} is given twice in {text!r}")
            given[key.strip()] = _unquoted(value)
        budget = {key: str(given.pop(key)) for key in BUDGET if key in given}
        return Spec(":".join(words[:n_name]), **budget, options=given)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Of what `to_dict` gives. Raises GroundPruneError for data that is not."""
        known = {f.name for f in fields(cls)}
        if not isinstance(data, Mapping) or "pruner" not in data or data.keys() - known:
            raise GroundPruneError(f"no pruner in data: a mapping of {', '.join(sorted(known))} (got {data!r})")
        quoted = {k: Quoted(v) if isinstance(v, str) else v for k, v in (data.get("options") or {}).items()}
        return cls(**{**data, "options": quoted})

    def to_dict(self) -> dict[str, Any]:
        """The same in data, as JSON takes it."""
        plain = {k: str(v) if isinstance(v, Fraction | str) else v for k, v in self.options.items()}
        return {**asdict(self), "options": plain}

    def __str__(self) -> str:
        """The same in text, which `parse` reads."""
        path, colon, attribute = self.pruner.rpartition(":")
        plain = not any(mark in self.pruner for mark in '",') and Spec._name(self.pruner) == self.pruner
        name = self.pruner if plain else _quoted(path, always=True) + colon + attribute if colon else self.pruner
        given = {**self.options, **{key: value for key in BUDGET if (value := getattr(self, key)) is not None}}
        return ":".join([name, *(f"{key}={_printed(value)}" for key, value in given.items())])

    @staticmethod
    def _name(text: str) -> str | None:
        try:
            return Spec.parse(text).pruner
        except GroundPruneError:
            return None

    @property
    def file(self) -> str | None:
        """Of a pruner of one's own, the file that it comes from."""
        path, colon, _ = self.pruner.rpartition(":")
        return path if colon and path.endswith(".py") else None

    @property
    def has_budget(self) -> bool:
        return self.keep is not None or self.tokens is not None

    @property
    def short(self) -> str:
        """For people: a pruner of one's own goes by its class; without the budget."""
        name = self.pruner.rpartition(":")[2]
        return str(Spec(name, options=self.options))

    def make_pruner(self, keep: object = None, tokens: object = None, **options: object) -> Pruner:
        """The pruner. keep, tokens, options: what the spec leaves open.

        Raises GroundPruneError for an unknown name or option (with those that there are), a value of another type,
        and for what is given in both places.
        """
        cls = pruner_class(self.pruner)
        given: dict[str, Any] = {key: value for key in BUDGET if (value := getattr(self, key)) is not None}
        given |= self.options
        more = {key: value for key, value in (("keep", keep), ("tokens", tokens)) if value is not None}
        more |= {key: Quoted(value) if isinstance(value, str) else value for key, value in options.items()}
        if given.keys() & more.keys() or (self.has_budget and more.keys() & set(BUDGET)):
            key = next(key for key in more if key in given or key in BUDGET)
            raise GroundPruneError(f"{key} is given beside the pruner, and {str(self)!r} has its own: give one")
        given |= more
        known = {option.name: option for option in options_of(cls)}
        label = self.pruner.rpartition(":")[2]
        for key, value in given.items():
            if key in BUDGET:
                continue
            if key not in known:
                if not known:
                    raise GroundPruneError(f"{label} has no options, but its budget (got {key!r})")
                raise unknown(f"option of {label}", key, known)
            if isinstance(value, str):
                given[key] = known[key].read(value, label)
        return cls(**given)


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


def make_pruner(
    pruner: str | Pruner,
    keep: float | str | Fraction | None = None,
    tokens: int | str | None = None,
    **options: object,
) -> Pruner:
    """A pruner from text: `hired`, `hired:alpha=0.3:keep=0.25`, `path/to/file.py:Class:option=value`.

    Args:
        pruner: In text, see `Spec`; a pruner is given back as it is.
        keep: Share of the patches that stay, where the text says no budget.
        tokens: Or how many stay per image.
        **options: Of the method, beside those in the text.

    Raises:
        GroundPruneError: An unknown name or option (with those that there are), a value out of range or of another
            type, or one that is given twice.
    """
    return pruner if isinstance(pruner, Pruner) else Spec.parse(pruner).make_pruner(keep, tokens, **options)


def spec_of(pruner: Pruner, name: str | None = None) -> Spec:
    """All of a pruner. name: in text, under which its class is found, by default its registered one or its file's.

    Raises GroundPruneError where no name leads to its class.
    """
    name = name_of(type(pruner)) if name is None else Spec.parse(name).pruner
    if not name or pruner_class(name) is not type(pruner):
        raise GroundPruneError(
            f"{type(pruner).__name__} is no registered pruner: register it, or name it by its file, "
            "path/to/file.py:Class"
        )
    budget = {key: None if (value := getattr(pruner, key)) is None else str(value) for key in BUDGET}
    options = {o.name: o.kept(getattr(pruner, o.name)) for o in options_of(type(pruner))}
    options = {o.name: options[o.name] for o in options_of(type(pruner)) if options[o.name] != o.default}
    return Spec(name, **budget, options=options)


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


def split(text: str) -> list[str]:
    """The pruners of a list in text, each in text. Raises GroundPruneError where an entry is empty."""
    entries = [entry.strip() for entry in _split(text, ",")]
    if not all(entries):
        raise GroundPruneError(f"an entry of the list {text!r} is empty")
    return entries


def short_name(text: str) -> str:
    """`Spec.short` of a pruner in text; what is malformed as it is, for old results must be shown."""
    try:
        return Spec.parse(text).short
    except GroundPruneError:
        return text.rpartition(":")[2]


def _split(text: str, mark: str) -> list[str]:
    """At the marks that stand outside of quotes."""
    if text.count('"') % 2:
        raise GroundPruneError(f"a quote is open in {text!r}")
    parts = [""]
    for i, piece in enumerate(text.split('"')):
        first, *rest = [piece] if i % 2 else piece.split(mark)
        parts[-1] += first if i == 0 else '"' + first
        parts += rest
    return parts


def _unquoted(text: str) -> str:
    if '"' not in text:
        return text
    return Quoted(re.sub(r'"((?:[^"]|"")*)"', lambda found: found[1].replace('""', '"'), text))


def _quoted(text: str, always: bool = False) -> str:
    doubled = text.replace('"', '""')
    none = isinstance(text, Quoted) and text.lower() == "none"
    plain = text and text == text.strip() and not none and not any(mark in text for mark in ':,="')
    return text if plain and not always else f'"{doubled}"'


def _printed(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return _quoted(value) if isinstance(value, str) else str(value)


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
