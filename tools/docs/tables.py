"""A table of the docs, in markdown."""

from __future__ import annotations

from collections.abc import Sequence


def table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """left: how many columns, from the first on, hold words; the others hold numbers, set to the right."""
    rule = [":--" if index < left else "--:" for index in range(len(header))]
    return "".join("| " + " | ".join(row) + " |\n" for row in [header, rule, *rows])
