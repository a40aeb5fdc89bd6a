"""`list`: the pruners that there are."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from groundprune.cli.console import print_json
from groundprune.cli.options import JsonOption
from groundprune.errors import unknown

# What `groundprune.report.catalogue` finds in the registries, which take seconds to import; `make readme` writes it.
STORED = Path(__file__).parent.parent / "report" / "catalogue.json"


def list_pruners(
    name: Annotated[
        str | None, typer.Argument(help="One pruner, whose options are shown.", show_default=False)
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the pruners: paper, what each scores by, where it acts, and what its authors do to position ids.

    [dim]groundprune list hired[/]
    """
    rows = json.loads(STORED.read_text(encoding="utf-8"))
    if name is not None:
        _show(name, rows, as_json)
        return
    if as_json:
        print_json(rows)
        return
    from rich.console import Console
    from rich.table import Table

    columns = ("pruner", "paper", "year", "scores by", "acts", "merges", "official positions", "families")
    table = Table(*columns, box=None, pad_edge=False)
    most = max(len(row["families"]) for row in rows)  # `random` and `spatial` read nothing that a family may lack
    for row in rows:
        merges = "yes" if row["merges"] else "-"
        families = "all" if len(row["families"]) == most else ", ".join(row["families"]) or "-"
        told = (row["name"], row["paper"], str(row["year"] or ""), row["scores_by"], row["stage"], merges)
        others = [f"{policy} on {model}" for model, policy in row["official_by_model"].items()]
        table.add_row(*told, ", ".join([row["official_positions"], *others]), families)
    # A pipe has no width: what follows it wants one line per pruner.
    Console(width=None if sys.stdout.isatty() else 200).print(table)
    typer.echo("\nOptions of one: groundprune list NAME. One of your own: --pruner path/to/file.py:Class")


def _show(name: str, rows: list[dict[str, Any]], as_json: bool) -> None:
    """One pruner and its options. Raises GroundPruneError for a name that is not known."""
    known = {row["name"]: row for row in rows}
    if name in known:
        row = known[name]
    elif ".py:" in name:
        from groundprune.pruners import pruner_class
        from groundprune.pruners.option import options_of

        cls = pruner_class(name)
        row = {"name": name, "summary": cls.scores_by, "options": [option.to_dict() for option in options_of(cls)]}
    else:
        raise unknown("pruner", name, [*known, "path/to/file.py:Class"])
    if as_json:
        print_json(row)
        return
    from rich.console import Console
    from rich.table import Table

    typer.echo(f"{row['name']}: {row['summary']}" if row["summary"] else row["name"])
    table = Table("option", "type", "default", "meaning", box=None, pad_edge=False)
    for option in row["options"]:
        default = option["default"]
        told = str(default).lower() if default is None or isinstance(default, bool) else str(default)
        table.add_row(option["name"], option["type"], told, option["meaning"])
    if not row["options"]:
        typer.echo("\nIt has no options but its budget.")
        return
    typer.echo()
    Console(width=None if sys.stdout.isatty() else 200).print(table)
    first = row["options"][0]
    typer.echo(f"\n--pruner {row['name']}:{first['name']}={str(first['default']).lower()}")
