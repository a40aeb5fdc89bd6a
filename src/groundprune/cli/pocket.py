"""`pocket card`: what the embedded model is."""

from __future__ import annotations

import json

import typer

from groundprune.cli.console import print_json
from groundprune.cli.options import JsonOption
from groundprune.errors import GroundPruneError

app = typer.Typer(help="The pocket model.")


@app.command()
def card(as_json: JsonOption = False) -> None:
    """Print the pocket model's card: what it is, how it was trained, and what it gets right."""
    from groundprune.pocket import checkpoint_path

    path = checkpoint_path() / ("card.json" if as_json else "CARD.md")
    if not path.is_file():
        raise GroundPruneError(f"the pocket model has no {path.name}")
    text = path.read_text(encoding="utf-8")
    if as_json:
        print_json(json.loads(text))
    else:
        typer.echo(text.rstrip())
