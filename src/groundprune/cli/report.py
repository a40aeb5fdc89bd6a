"""`report`: the page and the figures of stored results."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from groundprune.cli.console import progress, quieten
from groundprune.errors import GroundPruneError


def report(
    folder: Annotated[Path, typer.Argument(help="A folder that `compare --out` wrote.", show_default=False)],
    pruner: Annotated[
        str | None,
        typer.Option("--pruner", "-p", help="Whose bars and samples stand in front (default: cls-visual if there)."),
    ] = None,
    keep: Annotated[str | None, typer.Option("--keep", "-k", help="At which share (default: 0.5 if there).")] = None,
    tokens: Annotated[int | None, typer.Option("--tokens", help="Or at which count.")] = None,
    samples: Annotated[
        int | None, typer.Option("--samples", min=0, help="At most so many samples to look at (default: a hundred).")
    ] = None,
) -> None:
    """Write report.html, one file that needs no other, and figures/ (PNG and SVG) into a folder of results.

    All of it comes from what is stored, the shaded tokens too: no model runs. What is not stored the page says.

    [dim]groundprune report runs/mine[/]
    [dim]groundprune report runs/mine --pruner random --keep 0.25[/]
    """
    if keep is not None and tokens is not None:
        raise GroundPruneError("give either --keep or --tokens, not both")
    progress(f"reading {folder}")
    quieten()
    from groundprune.evaluation import Setting
    from groundprune.report.gallery import SAMPLES
    from groundprune.report.page import write_report

    budget = Setting(keep=keep, tokens=tokens).short().budget  # 0.50 and 1/2 are 0.5
    most = SAMPLES if samples is None else samples
    typer.echo(f"report   {write_report(folder, pruner, budget, most)}")
