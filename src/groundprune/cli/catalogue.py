"""`list`: the pruners that there are."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import typer

from groundprune.cli.console import print_json
from groundprune.cli.options import JsonOption

if TYPE_CHECKING:
    from groundprune.pruners import Pruner


def list_pruners(as_json: JsonOption = False) -> None:
    """List the pruners: what each keeps, what it needs of the model, and what its authors do to position ids."""
    from groundprune.pruners import pruner_class, pruner_names

    rows = [
        {
            "name": name,
            "summary": summary(pruner_class(name)),
            "needs": sorted(map(str, pruner_class(name).needs)),
            "official_positions": pruner_class(name).official_positions,
        }
        for name in pruner_names()
    ]
    if as_json:
        print_json(rows)
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("pruner", "method", "needs", "official positions", box=None, pad_edge=False)
    for row in rows:
        table.add_row(row["name"], row["summary"], ", ".join(row["needs"]) or "-", row["official_positions"])
    # A pipe has no width: what follows it wants one line per pruner.
    Console(width=None if sys.stdout.isatty() else 200).print(table)
    typer.echo("\nOne of your own: --pruner path/to/file.py:Class")


def summary(cls: type[Pruner]) -> str:
    """The first line of what the method's file says of itself: "`name`: keep the ..."; else of its class."""
    text = (sys.modules[cls.__module__].__doc__ or "").strip()
    prefix = f"`{cls.name}`: "
    if not text.startswith(prefix):
        text, prefix = (cls.__doc__ or "").strip(), ""
    return text.removeprefix(prefix).split("\n")[0]
