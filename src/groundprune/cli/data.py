"""`data check`: what a folder of benchmarks holds, and how to get the rest."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from groundprune.cli.console import print_json
from groundprune.cli.options import JsonOption

WRONG = 1  # exit code: what is there is not what it should be

app = typer.Typer(help="Benchmarks on disk: RefCOCO, RefCOCO+, RefCOCOg, GQA, ScreenSpot.")


@app.callback()
def data() -> None:
    """Benchmarks on disk: RefCOCO, RefCOCO+, RefCOCOg, GQA, ScreenSpot."""


@app.command()
def check(
    path: Annotated[Path, typer.Argument(help="The folder that --data-root names.", show_default=False)],
    images: Annotated[bool, typer.Option("--images", help="Also open every image; takes long.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Say which benchmarks are there, whether their counts are the published ones, and how to get what is missing.

    Exit code 1 where a count differs, an image is damaged or a box cannot be; what is only missing is no error.

    [dim]groundprune data check data[/]
    """
    from groundprune.data import check_data

    report = check_data(path, images)
    if as_json:
        print_json({**asdict(report), "wrong": report.wrong})
    else:
        for found in report.found:
            if found.error:
                typer.echo(f"{found.spec:22} cannot be read: {found.error}")
                continue
            count = f"{found.samples} samples"
            if found.official is not None:
                same = found.samples == found.official
                count += ", as published" if same else f", but {found.official} are published"
            there = "all there" if not found.absent else f"{found.absent} missing"
            typer.echo(f"{found.spec:22} {count}; {found.images} images, {there}")
            for damage in found.damaged:
                typer.echo(f"{'':22} damaged: {damage}")
            for impossible in found.impossible:
                typer.echo(f"{'':22} impossible: {impossible}")
        for file, how in report.missing.items():
            typer.echo(f"{'missing':22} {file}: {how}")
    if report.wrong:
        raise typer.Exit(WRONG)
