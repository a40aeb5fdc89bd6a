"""`scene`: a drawing that the pocket model understands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from groundprune.cli.console import print_json, save_image, writable_image
from groundprune.cli.options import JsonOption


def scene(
    out: Annotated[Path, typer.Argument(help="The image to write.", show_default=False)],
    seed: Annotated[int, typer.Option("--seed", min=0, help="Another seed, another scene, unseen in training.")] = 7,
    as_json: JsonOption = False,
) -> None:
    """Draw a scene that the pocket model understands, and print requests about it with their true answers.

    [dim]groundprune scene --seed 7 scene.png[/]
    """
    from groundprune.data import scenes

    drawn = scenes.scene(seed)
    save_image(drawn.image, writable_image(out))
    if as_json:
        print_json(
            {
                "image": str(out),
                "size": list(drawn.image.size),
                "expressions": [{"text": text, "box": list(box)} for text, box in drawn.expressions.items()],
                "questions": [{"text": text, "answer": answer} for text, answer in drawn.questions.items()],
            }
        )
        return
    width, height = drawn.image.size
    typer.echo(f"{out}: {width} x {height} pixels, {len(drawn.objects)} objects")
    typer.echo("\nexpressions, with their boxes (x1, y1, x2, y2)")
    _print_pairs([(text, ", ".join(map(str, box))) for text, box in drawn.expressions.items()])
    typer.echo("\nquestions, with their answers")
    _print_pairs(list(drawn.questions.items()))


def _print_pairs(pairs: list[tuple[str, str]]) -> None:
    width = max((len(text) for text, _ in pairs), default=0)
    for text, truth in pairs:
        typer.echo(f"  {text:{width}}  {truth}")
