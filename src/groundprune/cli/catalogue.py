"""`list`: the pruners that there are."""

from __future__ import annotations

import functools
import sys
from typing import TYPE_CHECKING, Any

import typer

from groundprune.cli.console import print_json
from groundprune.cli.options import JsonOption

if TYPE_CHECKING:
    from groundprune.pruners import Pruner


def list_pruners(as_json: JsonOption = False) -> None:
    """List the pruners: paper, what each scores by, where it acts, and what its authors do to position ids."""
    rows = catalogue()
    if as_json:
        print_json(rows)
        return
    from rich.console import Console
    from rich.table import Table

    from groundprune.families import families as registered

    columns = ("pruner", "paper", "year", "scores by", "acts", "merges", "official positions", "families")
    table = Table(*columns, box=None, pad_edge=False)
    most = len(registered())
    for row in rows:
        merges = "yes" if row["merges"] else "-"
        families = "all" if len(row["families"]) == most else ", ".join(row["families"]) or "-"
        told = (row["name"], row["paper"], str(row["year"] or ""), row["scores_by"], row["stage"], merges)
        others = [f"{policy} on {model}" for model, policy in row["official_by_model"].items()]
        table.add_row(*told, ", ".join([row["official_positions"], *others]), families)
    # A pipe has no width: what follows it wants one line per pruner.
    Console(width=None if sys.stdout.isatty() else 200).print(table)
    typer.echo("\nOne of your own: --pruner path/to/file.py:Class")


def catalogue() -> list[dict[str, Any]]:
    """One entry per registered pruner, from what its class says of itself."""
    from groundprune.pruners import pruner_class, pruner_names

    served = families()
    return [
        {
            "name": name,
            "summary": summary(cls),
            "paper": cls.paper,
            "year": cls.year,
            "scores_by": cls.scores_by,
            "stage": stage_of(cls),
            "merges": cls.merges,
            "official_positions": cls.official_positions,
            "official_by_model": dict(cls.official_by_model),
            "families": [family for family, names in served.items() if name in names],
            "needs": sorted(map(str, cls.needs)),
        }
        for name, cls in ((name, pruner_class(name)) for name in pruner_names())
    ]


def stage_of(cls: type[Pruner]) -> str:
    """Where a pruner acts: "before the LLM", or layers of an LLM of 32."""
    layers = [stage.layer for stage in cls(keep=0.9).stages(32)]
    inside = [str(layer) for layer in layers if layer is not None]
    before = ["before the LLM"] if None in layers else []
    return " and ".join([*before, *([f"layer{'s' * (len(inside) > 1)} {', '.join(inside)} of 32"] if inside else [])])


def families() -> dict[str, list[str]]:
    """Per registered family the pruners that a model of it can serve, with a CLIP text tower at hand."""
    from groundprune.families import families as registered
    from groundprune.pruners import servable

    checks = {name: functools.partial(f.check, f.tiny_config()) for name, f in registered().items()}
    return {name: servable(check) for name, check in checks.items()}


def summary(cls: type[Pruner]) -> str:
    """The first line of what the method's file says of itself: "`name`: keep the ..."; else of its class."""
    text = (sys.modules[cls.__module__].__doc__ or "").strip()
    prefix = f"`{cls.name}`: "
    if not text.startswith(prefix):
        text, prefix = (cls.__doc__ or "").strip(), ""
    return text.removeprefix(prefix).split("\n")[0]
