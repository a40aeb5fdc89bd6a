"""`list`: the pruners that there are."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import typer

from groundprune.cli.console import print_json
from groundprune.cli.options import JsonOption

# What `groundprune.report.catalogue` finds in the registries, which take seconds to import; `make readme` writes it.
STORED = Path(__file__).parent.parent / "report" / "catalogue.json"


def list_pruners(as_json: JsonOption = False) -> None:
    """List the pruners: paper, what each scores by, where it acts, and what its authors do to position ids."""
    rows = json.loads(STORED.read_text(encoding="utf-8"))
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
    typer.echo("\nOne of your own: --pruner path/to/file.py:Class")
