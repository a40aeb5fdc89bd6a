"""The things that scenes show: their names, and which files show them. `names.tsv` is the list."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

# Their pictures are never shown in training, nor are they asked for.
HELD_OUT_NAMES = frozenset(
    [
        "zebra",
        "otter",
        "owl",
        "lobster",
        "pear",
        "pizza",
        "helicopter",
        "violin",
        "umbrella",
        "trophy",
        "candle",
        "camel",
    ]
)
_PLURALS = {
    "mouse": "mice", "goose": "geese", "wolf": "wolves", "knife": "knives", "scarf": "scarves",
    "tomato": "tomatoes", "potato": "potatoes", "mango": "mangoes",
    **{name: name for name in ("fish", "sheep", "deer", "bison", "shrimp", "squid")},
}  # fmt: skip


@dataclass(frozen=True)
class Named:
    """name: in words. emoji: short names of emoji. stamps: stamps of Tux Paint, without their ending."""

    name: str
    emoji: tuple[str, ...]
    stamps: tuple[str, ...]


@cache
def named() -> tuple[Named, ...]:
    """All names, in the order of the list."""
    rows = (Path(__file__).parent / "names.tsv").read_text().splitlines()
    return tuple(
        Named(name, tuple(emoji.split()), tuple(s.split())) for name, emoji, s in (r.split("\t") for r in rows)
    )


def trained_names() -> tuple[str, ...]:
    """Those that training shows and asks for."""
    return tuple(each.name for each in named() if each.name not in HELD_OUT_NAMES)


def plural(name: str) -> str:
    """`plural("goose")` is "geese"."""
    if name in _PLURALS:
        return _PLURALS[name]
    if name.endswith(("s", "x", "ch", "sh")):
        return name + "es"
    if name.endswith("y") and name[-2] not in "aeiou":
        return name[:-1] + "ies"
    return name + "s"


def with_article(name: str) -> str:
    """`with_article("owl")` is "an owl"."""
    return f"{'an' if name[0] in 'aeiou' and name != 'unicorn' else 'a'} {name}"
