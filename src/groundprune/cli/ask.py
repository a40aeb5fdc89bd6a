"""`ask`: a question about an image."""

from __future__ import annotations

from typing import Annotated

import typer

from groundprune.cli.console import announce, print_json, utf8
from groundprune.cli.one_image import ImageArgument, OverlayOption, Request
from groundprune.cli.options import (
    DeviceOption,
    DtypeOption,
    JsonOption,
    KeepOption,
    ModelOption,
    PositionsOption,
    PrunerOption,
    SeedOption,
    TextTowerOption,
    TokensOption,
    read_pruning,
)


def ask(
    image: ImageArgument,
    question: Annotated[str, typer.Argument(help="What to ask.", show_default=False)],
    model: ModelOption = "pocket",
    pruner: PrunerOption = None,
    keep: KeepOption = None,
    tokens: TokensOption = None,
    positions: PositionsOption = None,
    text_tower: TextTowerOption = None,
    seed: SeedOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = "auto",
    out: OverlayOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ask a question about an image and print the answer. With --out, also draw which tokens were kept.

    [dim]groundprune ask scene.png "how many circles"[/]
    [dim]groundprune ask photo.jpg "what colour is the mug?" --model llava-hf/llava-1.5-7b-hf --pruner random[/]
    """
    announce(model)
    question = utf8(question)
    pruning = read_pruning(pruner, keep, tokens, positions, text_tower, seed)
    reply = Request(image, question, "vqa", model, pruning, text_tower, out).answered(device, dtype)
    if out is not None:
        reply.draw(out)
    if as_json:
        print_json({"question": question, **reply.to_json()})
    else:
        typer.echo(reply.said.text)
