"""`ground`: what does an expression refer to?"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from groundprune.cli.console import announce, print_json, utf8
from groundprune.cli.one_image import ImageArgument, OverlayOption, Reply, Request
from groundprune.cli.options import (
    DEFAULT_KEEP,
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
from groundprune.cli.pictures import show
from groundprune.errors import GroundPruneError

NO_BOX = 1  # exit code where the model answered without a box

ExplainOption = Annotated[
    Path | None,
    typer.Option(
        "--explain",
        help="Also write a sheet (.png or .svg): what every pruner scores and keeps, and the box under each policy.",
        show_default=False,
    ),
]


def ground(
    image: ImageArgument,
    expression: Annotated[str, typer.Argument(help="What to look for.", show_default=False)],
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
    explain: ExplainOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find what an expression refers to: prints its box and draws it over the image, with the tokens that were kept.

    The overlay goes to IMAGE's name with .ground.png in the current folder, unless --out says otherwise; kitty,
    iTerm2 and terminals that speak their protocols show it, too.
    Exit code 1: the model's answer holds no box.

    [dim]groundprune ground scene.png "the red circle" --pruner cls-visual --keep 0.5[/]
    [dim]groundprune ground scene.png "the red circle" --pruner cls-visual --explain sheet.png[/]
    [dim]groundprune ground photo.jpg "the mug left of the laptop" --model llava-hf/llava-1.5-7b-hf --json[/]
    """
    announce(model)
    expression = utf8(expression)
    target = Path(f"{image.stem}.ground.png") if out is None else out
    pruning = read_pruning(pruner, keep, tokens, positions, text_tower, seed, explained=explain is not None)
    if explain is not None:
        _writable_sheet(explain, image, target)
    request = Request(image, expression, "rec", model, pruning, text_tower, target)
    reply = request.answered(device, dtype)
    reply.draw(target)
    if explain is not None:
        _explain(explain, reply, keep, tokens, positions)
    if as_json:
        result = {"expression": expression, **reply.to_json()}
        print_json(result if explain is None else {**result, "sheet": str(explain)})
    else:
        typer.echo(_box_line(reply))
        typer.echo(_tokens_line(reply))
        typer.echo(f"overlay  {target}")
        if explain is not None:
            typer.echo(f"sheet    {explain}")
        show(target, sys.stdout)
    if reply.said.box is None:
        raise typer.Exit(NO_BOX)


def _writable_sheet(path: Path, image: Path, overlay: Path) -> None:
    """Raises GroundPruneError where no sheet can be written to `path`, or would overwrite something else."""
    if path.suffix.lower() not in (".png", ".svg"):
        raise GroundPruneError(f"--explain {path}: a sheet is a .png or an .svg (got {path.suffix!r})")
    if path.is_dir():
        raise GroundPruneError(f"--explain {path}: is a folder, give a file to write")
    if not path.absolute().parent.is_dir():
        raise GroundPruneError(f"--explain {path}: there is no folder {path.parent}")
    if not os.access(path if path.exists() else path.absolute().parent, os.W_OK):
        raise GroundPruneError(f"--explain {path}: cannot be written (no permission)")
    if path.resolve() in (image.resolve(), overlay.resolve()):
        raise GroundPruneError(f"--explain {path} is the image itself or the overlay, and would overwrite it")


def _explain(path: Path, reply: Reply, keep: str | None, tokens: str | None, positions: str | None) -> None:
    """Every registered pruner; the boxes are those of the named one, else of the first in the order of reports."""
    from groundprune.evaluation.specs import MAIN_POSITIONS
    from groundprune.pruners import pruner_names
    from groundprune.report.score_maps import explain
    from groundprune.report.sheet import write_sheet
    from groundprune.report.tables import DETAILED

    named, policy = reply.pruning.pruner, positions or MAIN_POSITIONS[0]
    others = sorted(pruner_names(), key=lambda name: name != DETAILED[0])
    # Of a named pruner, whose budget may stand in its own text.
    budget = (keep, tokens) if named is None else (named.keep, named.tokens)
    found = explain(
        reply.model,
        reply.processor,
        reply.picture,
        reply.request.text,
        others if named is None else [named, *(name for name in others if name != named.label)],
        dict.fromkeys((*MAIN_POSITIONS, policy)),
        DEFAULT_KEEP if budget == (None, None) else budget[0],
        budget[1],
        reply.request.text_tower,
        known={"unpruned" if named is None else policy: reply.said},
    )
    try:
        write_sheet(found, path)
    except OSError as error:
        raise GroundPruneError(f"{path}: cannot be written ({error})") from error


def _box_line(reply: Reply) -> str:
    said, picture = reply.said, reply.picture
    if said.box is None:
        return f"no box  the model answered: {said.text or '(nothing)'}"
    corners = ", ".join(f"{edge:.1f}" for edge in said.box)
    return f"box      {corners}  (x1, y1, x2, y2 in pixels of {picture.width} x {picture.height})"


def _tokens_line(reply: Reply) -> str:
    said = reply.said
    return f"tokens   {said.kept_tokens} of {said.total_tokens} kept ({reply.pruning.describe()})"
