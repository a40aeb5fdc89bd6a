"""`evaluate`: a model on a benchmark, unpruned and under every pruner, budget and position policy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from groundprune.cli.console import pick_device, quieten
from groundprune.cli.options import DeviceOption, JsonOption, ModelOption, TextTowerOption
from groundprune.cli.studies import grid_of, show


def evaluate(
    model: ModelOption = "pocket",
    data: Annotated[
        str,
        typer.Option(
            "--data",
            "-d",
            help="scenes, refcoco:val, refcoco+:testA, refcocog:val, gqa:testdev, gqa:testdev-spatial, FILE.jsonl, "
            "FILE.parquet:SPLIT, FOLDER:SPLIT or hub:OWNER/NAME:SPLIT.",
        ),
    ] = "scenes",
    data_root: Annotated[
        Path | None,
        typer.Option("--data-root", help="Folder of the benchmarks (default: data), or of a file's images."),
    ] = None,
    protocol: Annotated[
        str, typer.Option("--protocol", help="native: the model's own prompt and frame; paper: lmms-eval's task.")
    ] = "native",
    limit: Annotated[int | None, typer.Option("--limit", "-n", help="Only the first so many samples.")] = None,
    pruner: Annotated[
        str | None,
        typer.Option("--pruner", "-p", help="Names or path/to/file.py:Class, separated by commas; all: every one."),
    ] = None,
    keep: Annotated[
        str | None,
        typer.Option("--keep", "-k", help="Shares that stay, separated by commas (default 0.75,0.5,0.25,0.1)."),
    ] = None,
    tokens: Annotated[str | None, typer.Option("--tokens", help="Counts that stay, separated by commas.")] = None,
    positions: Annotated[
        str | None, typer.Option("--positions", help="Policies, separated by commas (default: as in compare).")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder for results and report; the same call goes on where it stopped."),
    ] = None,
    batch_size: Annotated[
        int, typer.Option("--batch-size", "-b", help="Prompts that run together; halved where memory runs out.")
    ] = 64,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Which scenes, where they are the data.")] = 0,
    text_tower: TextTowerOption = None,
    device: DeviceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure what pruning costs on a benchmark: RefCOCO, RefCOCO+, RefCOCOg, GQA, data of your own, or drawn scenes.

    Every image goes through the vision tower once. Results name protocol, source and split.

    [dim]groundprune evaluate --limit 50 --pruner cls-visual --keep 0.5[/]
    [dim]groundprune evaluate --model llava-hf/llava-1.5-7b-hf --data refcoco:val --protocol paper
    --positions preserved,reassigned --out runs/llava[/]
    """
    quieten()
    from groundprune.evaluation.evaluate import evaluate as run

    summary = run(
        model, data, protocol=protocol, limit=limit, data_root=data_root, out=out, batch_size=batch_size,
        text_tower=text_tower, seed=seed, device=pick_device(device), **grid_of(pruner, keep, tokens, positions),
    )  # fmt: skip
    if not as_json:
        about = summary.run
        typer.echo(f"data     {about['data']}, {about['split']} ({about['source']}); protocol: {protocol}")
        unreadable = summary.about.get("unreadable")
        if unreadable:
            typer.echo(f"warning  {unreadable['samples']} samples left out: {unreadable['images'][0]}")
    show(summary, out, device, as_json)
