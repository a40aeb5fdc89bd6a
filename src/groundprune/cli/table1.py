"""`study table1`: the paper's main table, from local checkpoints and data."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from groundprune.cli.console import complain, print_json, progress, quieten
from groundprune.cli.options import comma_separated
from groundprune.errors import GroundPruneError

if TYPE_CHECKING:
    from groundprune.studies.parts.requirements import Checkpoint
    from groundprune.studies.table1 import Cell


def run_table1(
    checkpoints: Path | None,
    data_root: Path,
    plan: bool,
    model: str | None,
    data: str | None,
    limit: int | None,
    out: Path,
    batch_size: int,
    device: str | None,
    dtype: str,
    as_json: bool,
) -> None:
    """Five models, six pruners, both position policies, on RefCOCO, RefCOCO+, RefCOCOg and GQA: ours and published.

    The arguments are options of `study`. Raises GroundPruneError where there is neither a plan to make nor a
    checkpoint to run.
    """
    progress("reading checkpoints and data")
    quieten()
    from groundprune.studies import table1 as study
    from groundprune.studies.parts.requirements import read_checkpoints

    places = {} if checkpoints is None else read_checkpoints(checkpoints)
    models = list(study.MODELS) if model is None else comma_separated(model)
    specs = list(study.DATA) if data is None else comma_separated(data)
    if not plan and checkpoints is None:
        raise GroundPruneError("give --checkpoints FILE.toml, or --plan to see what is needed")
    cells = study.plan(places, data_root, models, specs)
    _warn(cells)  # before hours of work
    if not plan:
        cells = study.table1(
            places,
            data_root,
            out / "table1",
            models,
            specs,
            limit=limit,
            batch_size=batch_size,
            device=device,
            dtype=dtype,
        )
    if as_json:
        print_json([{**asdict(cell), "missing": cell.missing, "difference": cell.difference} for cell in cells])
        return
    if plan:
        _print_plan(cells, places)
    else:
        _print_table(cells)


def _warn(cells: list[Cell]) -> None:
    for name, warning in dict.fromkeys((cell.model, cell.warning) for cell in cells if cell.warning):
        complain(f"warning: the checkpoint of {name} is not what its name says: {warning}")


def _print_plan(cells: list[Cell], places: dict[str, Checkpoint]) -> None:
    from groundprune.studies.table1 import BASIS

    typer.echo(f"{'model':14} {'ready':>9} {'hours':>7}  checkpoint")
    for name in dict.fromkeys(cell.model for cell in cells):
        mine = [cell for cell in cells if cell.model == name]
        hours = sum(cell.hours for cell in mine if cell.hours is not None)
        done = f"{sum(cell.missing is None for cell in mine)} of {len(mine)}"
        place = places[name].path if name in places else "-"
        typer.echo(f"{name:14} {done:>9} {hours:>7.1f}  {place}")
    lacks = Counter(lack for cell in cells for lack in cell.lacks)
    if lacks:
        typer.echo("\ncells  lack")
    for lack, count in lacks.most_common():
        typer.echo(f"{count:5}  {lack}")
    ready = sum(cell.missing is None for cell in cells)
    known = [cell.hours for cell in cells if cell.hours is not None]
    unknown = len(cells) - len(known)
    typer.echo(
        f"\n{len(cells)} cells, {ready} ready; {sum(known):.0f} GPU hours"
        + (f" and those of {unknown} cells whose data is not there" if unknown else "")
    )
    typer.echo(BASIS)


def _print_table(cells: list[Cell]) -> None:
    from groundprune.studies.parts.published import NOTES

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
