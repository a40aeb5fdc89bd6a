"""`ground` and `ask`: one image, one answer."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from groundprune.cli.console import announce, open_model, print_json, save_image, utf8, writable_image
from groundprune.cli.options import (
    DEFAULT_KEEP,
    DeviceOption,
    DtypeOption,
    JsonOption,
    KeepOption,
    ModelOption,
    PositionsOption,
    PrunerOption,
    Pruning,
    SeedOption,
    TextTowerOption,
    TokensOption,
    read_pruning,
)
from groundprune.errors import GroundPruneError

if TYPE_CHECKING:
    from PIL import Image

    from groundprune.answers import Answer

NO_BOX = 1  # exit code of `ground` when the model answered without a box

ImageArgument = Annotated[Path, typer.Argument(help="Any image that Pillow reads.", show_default=False)]
OutOption = Annotated[
    Path | None, typer.Option("--out", "-o", help="Where to write the overlay.", show_default=False)
]
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
    out: OutOption = None,
    explain: ExplainOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find what an expression refers to: prints its box and draws it over the image, with the tokens that were kept.

    The overlay goes to IMAGE's name with .ground.png in the current folder, unless --out says otherwise.
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
    picture, said, loaded = _answer(image, expression, "rec", model, pruning, text_tower, device, dtype, target)
    pruning = pruning.on(loaded[0].config)
    _draw(picture, said, pruning, expression, target)
    if explain is not None:
        _explain(explain, loaded, picture, expression, said, pruning, keep, tokens, positions, text_tower)
    if as_json:
        result = {"expression": expression, **_report(image, picture, said, model, pruning, text_tower, target)}
        print_json(result if explain is None else {**result, "sheet": str(explain)})
    else:
        typer.echo(_box_line(picture, said))
        typer.echo(_tokens_line(said, pruning))
        typer.echo(f"overlay  {target}")
        if explain is not None:
            typer.echo(f"sheet    {explain}")
    if said.box is None:
        raise typer.Exit(NO_BOX)


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
    out: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ask a question about an image and print the answer. With --out, also draw which tokens were kept.

    [dim]groundprune ask scene.png "how many circles"[/]
    [dim]groundprune ask photo.jpg "what colour is the mug?" --model llava-hf/llava-1.5-7b-hf --pruner random[/]
    """
    announce(model)
    question = utf8(question)
    pruning = read_pruning(pruner, keep, tokens, positions, text_tower, seed)
    picture, said, loaded = _answer(image, question, "vqa", model, pruning, text_tower, device, dtype, out)
    pruning = pruning.on(loaded[0].config)
    if out is not None:
        _draw(picture, said, pruning, question, out)
    if as_json:
        print_json({"question": question, **_report(image, picture, said, model, pruning, text_tower, out)})
    else:
        typer.echo(said.text)


def _answer(
    path: Path,
    text: str,
    kind: str,
    model: str,
    pruning: Pruning,
    text_tower: str | None,
    device: str | None,
    dtype: str,
    target: Path | None,
) -> tuple[Image.Image, Answer, tuple[Any, Any]]:
    """The image, what the model said, and the model with its processor.

    Everything that can be refused without the model is refused before it is loaded.
    """
    from groundprune.boxes.images import load_image

    if target is not None and target.exists() and path.exists() and target.samefile(path):
        raise GroundPruneError(f"--out {target} is the image itself and would be overwritten")
    picture = load_image(path)
    if target is not None:
        writable_image(target)
    from groundprune.answers import answer

    loaded, processor = open_model(model, device, dtype)
    policy = pruning.on(loaded.config).policy or "preserved"
    said = answer(loaded, processor, picture, text, kind, pruning.pruner, policy, text_tower)
    return picture, said, (loaded, processor)


def _draw(picture: Image.Image, said: Answer, pruning: Pruning, label: str, target: Path) -> None:
    from groundprune.report import overlay

    colour = overlay.PRESERVED
    if pruning.policy is None:
        colour = overlay.UNPRUNED
    elif pruning.policy.name != "preserved":
        colour = overlay.REASSIGNED
    boxes = [] if said.box is None else [(said.box, label, colour)]
    kept = None if said.kept is None else overlay.KeptMap(said.kept, said.frame)
    caption = "" if kept is None else overlay.CAPTION
    save_image(overlay.draw_overlay(picture, boxes, kept, caption=caption), target)


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


def _explain(
    path: Path,
    loaded: tuple[Any, Any],
    picture: Image.Image,
    expression: str,
    said: Answer,
    pruning: Pruning,
    keep: str | None,
    tokens: str | None,
    positions: str | None,
    text_tower: str | None,
) -> None:
    """Every registered pruner; the boxes are those of the named one, else of the first in the order of reports."""
    from groundprune.evaluation.specs import MAIN_POSITIONS
    from groundprune.pruners import pruner_names
    from groundprune.report.score_maps import explain
    from groundprune.report.sheet import write_sheet
    from groundprune.report.tables import DETAILED

    named, policy = pruning.pruner, positions or MAIN_POSITIONS[0]
    others = sorted(pruner_names(), key=lambda name: name != DETAILED[0])
    found = explain(
        *loaded,
        picture,
        expression,
        others if named is None else [named, *(name for name in others if name != named.label)],
        dict.fromkeys((*MAIN_POSITIONS, policy)),
        DEFAULT_KEEP if keep is None and tokens is None else keep,
        tokens,
        text_tower,
        known={"unpruned" if named is None else policy: said},
    )
    try:
        write_sheet(found, path)
    except OSError as error:
        raise GroundPruneError(f"{path}: cannot be written ({error})") from error


def _report(
    path: Path,
    picture: Image.Image,
    said: Answer,
    model: str,
    pruning: Pruning,
    text_tower: str | None,
    target: Path | None,
) -> dict[str, Any]:
    return {
        "image": str(path),
        "size": list(picture.size),
        "answer": said.text,
        "box": None if said.box is None else [round(edge, 2) for edge in said.box],
        "visual_tokens": {"kept": said.kept_tokens, "total": said.total_tokens},
        "settings": {"model": model, **pruning.settings(), "text_tower": text_tower},
        "overlay": None if target is None else str(target),
    }


def _box_line(picture: Image.Image, said: Answer) -> str:
    if said.box is None:
        return f"no box  the model answered: {said.text or '(nothing)'}"
    corners = ", ".join(f"{edge:.1f}" for edge in said.box)
    return f"box      {corners}  (x1, y1, x2, y2 in pixels of {picture.width} x {picture.height})"


def _tokens_line(said: Answer, pruning: Pruning) -> str:
    return f"tokens   {said.kept_tokens} of {said.total_tokens} kept ({pruning.describe()})"
