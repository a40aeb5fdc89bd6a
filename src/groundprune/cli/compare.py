"""`compare`: the same questions, unpruned and under every pruner, budget and position policy."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from groundprune.cli.console import announce, print_json, quieten
from groundprune.cli.options import (
    CountsOption,
    DeviceOption,
    DtypeOption,
    JsonOption,
    KeepsOption,
    ModelOption,
    ResultsOption,
    TextTowerOption,
    comma_separated,
)

if TYPE_CHECKING:
    from groundprune.evaluation import Summary


def compare(
    model: ModelOption = "pocket",
    scenes: Annotated[int, typer.Option("--scenes", "-n", help="Expressions, and as many questions.")] = 500,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Which scenes.")] = 0,
    split: Annotated[str, typer.Option("--split", help="held-out, novel-pair, novel-template.")] = "held-out",
    pruner: Annotated[
        str | None,
        typer.Option(
            "--pruner",
            "-p",
            help="Names or path/to/file.py:Class, separated by commas, options as hired:alpha=0.3; all: every one "
            "(default: random,spatial,cls-visual,text-visual).",
        ),
    ] = None,
    keep: KeepsOption = None,
    tokens: CountsOption = None,
    positions: Annotated[
        str | None,
        typer.Option(
            "--positions",
            help="Policies, separated by commas (default: preserved against reassigned, and a few more).",
        ),
    ] = None,
    out: ResultsOption = None,
    batch_size: Annotated[int, typer.Option("--batch-size", "-b", help="Prompts that run together.")] = 64,
    text_tower: TextTowerOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Measure what pruning costs, by position policy: accuracy of boxes and of answers on drawn scenes.

    [dim]groundprune compare[/]
    [dim]groundprune compare --pruner cls-visual,random --keep 0.5 --scenes 100 --out runs/mine[/]
    [dim]groundprune compare --pruner mine.py:FeatureNorm --positions preserved,stretched[/]
    """
    announce(model)
    quieten()
    from groundprune.evaluation import compare as run

    summary = run(
        model, scenes, seed, out=out, batch_size=batch_size, text_tower=text_tower, split=split,
        device=device, dtype=dtype, **grid_of(pruner, keep, tokens, positions),
    )  # fmt: skip
    show(summary, out, device, as_json)


def grid_of(pruner: str | None, keep: str | None, tokens: str | None, positions: str | None) -> dict[str, Any]:
    """The arguments of `compare_settings` that are given; the rest is left to it, which has reasons of its own."""
    from groundprune.pruners import pruner_names

    chosen: dict[str, Any] = {}
    if pruner is not None:
        chosen["pruners"] = pruner_names() if pruner == "all" else comma_separated(pruner)
    if keep is not None or tokens is not None:
        chosen["keeps"] = [] if keep is None else comma_separated(keep)
    if tokens is not None:
        chosen["tokens"] = comma_separated(tokens)
    if positions is not None:
        chosen["positions"] = comma_separated(positions)
    return chosen


def show(summary: Summary, out: Path | None, device: str | None, as_json: bool) -> None:
    """Print what a run found, and write its report where there is a folder for it."""
    page = None
    if out is not None:
        from groundprune.report.page import write_report

        page = write_report(out, device=device)
    if as_json:
        print_json(summary.to_json())
        return
    from rich.console import Console

    from groundprune.report.tables import print_tables

    # A pipe has no width, and a table cut at 80 columns loses numbers.
    print_tables(summary, Console(width=None if sys.stdout.isatty() else 200))
    if page is not None:
        typer.echo(f"results  {out}")
        typer.echo(f"report   {page}")
