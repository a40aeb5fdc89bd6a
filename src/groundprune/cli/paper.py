"""`paper table1`: the paper's main table, from local checkpoints and data."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from groundprune.cli.console import print_json, progress, quieten
from groundprune.cli.options import DeviceOption, DtypeOption, JsonOption, comma_separated
from groundprune.errors import GroundPruneError

if TYPE_CHECKING:
    from groundprune.studies.table1 import Cell

app = typer.Typer(help="The tables of the paper (GAP, arXiv 2506.21873), run again.")


@app.callback()
def paper() -> None:
    """The tables of the paper (GAP, arXiv 2506.21873), run again."""


@app.command()
def table1(
    checkpoints: Annotated[
        Path | None, typer.Option("--checkpoints", "-c", help="TOML file that says where each model's checkpoint is.")
    ] = None,
    data_root: Annotated[Path, typer.Option("--data-root", help="Folder of the benchmarks.")] = Path("data"),
    plan: Annotated[bool, typer.Option("--plan", help="List every cell and what it lacks; run nothing.")] = False,
    model: Annotated[str | None, typer.Option("--model", "-m", help="Only these, separated by commas.")] = None,
    data: Annotated[str | None, typer.Option("--data", "-d", help="Only these, separated by commas.")] = None,
    limit: Annotated[int | None, typer.Option("--limit", "-n", help="Only the first so many samples each.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for results; the same call goes on where it stopped.")
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", "-b", help="Prompts that run together.")] = 64,
    device: DeviceOption = None,
    dtype: DtypeOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Five models, six pruners, both position policies, on RefCOCO, RefCOCO+, RefCOCOg and GQA: ours and published.

    [dim]groundprune paper table1 --plan[/]
    [dim]groundprune paper table1 --checkpoints checkpoints.toml --model llava-1.5-7b --data refcoco:val
    --out runs/table1[/]
    """
    progress("reading checkpoints and data")
    quieten()
    from groundprune.studies import table1 as study

    places = {} if checkpoints is None else study.read_checkpoints(checkpoints)
    models = list(study.MODELS) if model is None else comma_separated(model)
    specs = list(study.DATA) if data is None else comma_separated(data)
    if plan:
        cells = study.plan(places, data_root, models, specs)
    elif checkpoints is None or out is None:
        raise GroundPruneError("give --checkpoints FILE.toml and --out FOLDER, or --plan to see what is needed")
    else:
        cells = study.table1(
            places, data_root, out, models, specs, limit=limit, batch_size=batch_size, device=device, dtype=dtype
        )
    if as_json:
        print_json([{**asdict(cell), "difference": cell.difference} for cell in cells])
        return
    (_print_plan if plan else _print_table)(cells)


def _print_plan(cells: list[Cell]) -> None:
    from groundprune.studies.table1 import BASIS

    for cell in cells:
        hours = "   ?" if cell.hours is None else f"{cell.hours:.2f}"
        typer.echo(f"{_named(cell)}  {hours} h  {'ready' if cell.missing is None else f'missing: {cell.missing}'}")
    ready = sum(cell.missing is None for cell in cells)
    known = [cell.hours for cell in cells if cell.hours is not None]
    unknown = len(cells) - len(known)
    typer.echo(
        f"\n{len(cells)} cells, {ready} ready; {sum(known):.0f} GPU hours"
        + (f" and those of {unknown} cells whose data is not there" if unknown else "")
    )
    typer.echo(BASIS)


def _print_table(cells: list[Cell]) -> None:
    from groundprune.studies.published import NOTES

    typer.echo(f"{'model':14} {'data':15} {'setting':32} {'ours':>7} {'published':>9} {'difference':>10}")
    for cell in cells:
        published = "unknown" if cell.published is None else f"{cell.published:.2f}"
        difference = "" if cell.difference is None else f"{cell.difference:+.2f}"
        ours = "-" if cell.ours is None else f"{cell.ours:.2f}"
        why = f"  missing: {cell.missing}" if cell.ours is None else f"  of {cell.samples}"
        typer.echo(f"{_named(cell)} {ours:>7} {published:>9} {difference:>10}{why}")
    typer.echo("")
    for note in NOTES:
        typer.echo(note)


def _named(cell: Cell) -> str:
    return f"{cell.model:14} {cell.data:15} {cell.setting:32}"
