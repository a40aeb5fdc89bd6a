"""A pruner as text, `hired:alpha=0.3:keep=0.25`, and as data: all that names a pruner reads and prints it here.

    pruner   name, then option=value for each option, with `:` between them; keep= or tokens= give the budget
    name     of a registered pruner, or path/to/file.py:Class
    several  with `,` between them
What holds `:`, `,` or `=` itself stands in double quotes, in which a double quote is written twice.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from fractions import Fraction
from typing import Any, Self

from groundprune.errors import GroundPruneError, unknown
from groundprune.pruners.base import Pruner
from groundprune.pruners.option import BUDGET, Quoted, options_of
from groundprune.pruners.registry import name_of, pruner_class


@dataclass(frozen=True)
class Spec:
    """All that makes a pruner: its fields are those of `to_dict`.

    Args:
        pruner: Registered name, or path/to/file.py:Class.
        keep: The budget in words; none, nor `tokens`, where it is given elsewhere.
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
        pieces = split_outside_quotes(text, ":")
        words = [_unquoted(piece) for piece in pieces]
        # A path may hold colons of its own: the name ends with what follows the first .py.
        ends = (i + 2 for i, word in enumerate(words[:-1]) if word.endswith(".py") and "=" not in pieces[i + 1])
        n_name = next(ends, 1)
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
        name = f"{_quoted(path)}:{attribute}" if colon else self.pruner
        given = {**self.options, **{key: value for key in BUDGET if (value := getattr(self, key)) is not None}}
        return ":".join([name, *(f"{key}={_printed(value)}" for key, value in given.items())])

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
        return str(Spec(self.pruner.rpartition(":")[2], options=self.options))

    def make_pruner(self, keep: Any = None, tokens: Any = None, **options: Any) -> Pruner:
        """The pruner. keep, tokens, options: what the spec leaves open.

        Raises GroundPruneError for an unknown name or option (with those that there are), a value of another type,
        and for what is given in both places.
        """
        cls, label = pruner_class(self.pruner), self.pruner.rpartition(":")[2]
        own: dict[str, Any] = {key: value for key in BUDGET if (value := getattr(self, key)) is not None} | dict(
            self.options
        )
        more = {key: value for key, value in (("keep", keep), ("tokens", tokens)) if value is not None}
        more |= {key: Quoted(value) if isinstance(value, str) else value for key, value in options.items()}
        for key in more:
            if key in own or (key in BUDGET and self.has_budget):
                raise GroundPruneError(f"{key} is given beside the pruner, and {str(self)!r} has its own: give one")
        known = {option.name: option for option in options_of(cls)}
        given: dict[str, Any] = own | more
        for key, value in given.items():
            if key not in known and key not in BUDGET:
                if not known:
                    raise GroundPruneError(f"{label} has no options, but its budget (got {key!r})")
                raise unknown(f"option of {label}", key, known)
            if key in known and isinstance(value, str):
                given[key] = known[key].read(value, label)
        return cls(**given)


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
    values = [(option, option.kept(getattr(pruner, option.name))) for option in options_of(type(pruner))]
    return Spec(name, **budget, options={o.name: value for o, value in values if value != o.default})


def short_name(text: str) -> str:
    """`Spec.short` of a pruner in text; what is malformed as it is, for old results must be shown."""
    try:
        return Spec.parse(text).short
    except GroundPruneError:
        return text.rpartition(":")[2]


def split_outside_quotes(text: str, mark: str) -> list[str]:
    """At the marks that stand outside of quotes, which stay. Raises GroundPruneError where a quote is open."""
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


def _quoted(text: str) -> str:
    none = isinstance(text, Quoted) and text.lower() == "none"
    if text and text == text.strip() and not none and not any(mark in text for mark in ':,="'):
        return text
    doubled = text.replace('"', '""')
    return f'"{doubled}"'


def _printed(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return _quoted(value) if isinstance(value, str) else str(value)
