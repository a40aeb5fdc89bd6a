"""`compare`: the same questions, unpruned and under every pruner, budget and position policy."""

from __future__ import annotations

from typing import Annotated

import typer

from groundprune.cli.console import announce, quieten, show_summary
from groundprune.cli.options import (
    CostsOption,
    CountsOption,
    DeviceOption,
    DtypeOption,
    JsonOption,
    KeepsOption,
    ModelOption,
    ResultsOption,
    TextTowerOption,
    grid_of,
)


def compare(
    model: ModelOption = "pocket",
    scenes: Annotated[int, typer.Option("--scenes", "-n", help="Expressions, and as many questions.")] = 500,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Which scenes.")] = 0,
    split: Annotated[
        str,
        typer.Option(
            "--split", help="held-out, novel-pair, novel-template; of smol held-out, novel-picture, novel-name."
        ),
    ] = "held-out",
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
    costs: CostsOption = False,
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
    show_summary(summary, out, as_json, costs)
