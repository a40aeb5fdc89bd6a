"""`scene` and `pocket`: drawings that the embedded model understands, its card, and its training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from groundprune.cli.console import print_json, quieten, save_image, writable_image
from groundprune.cli.options import JsonOption
from groundprune.errors import GroundPruneError

if TYPE_CHECKING:
    from groundprune.pocket.questions import Question
    from groundprune.pocket.scenes import SceneObject

EXPRESSIONS = 3
QUESTIONS = 4

app = typer.Typer(help="The pocket model: its card, and how to train it again.")


def scene(
    out: Annotated[Path, typer.Argument(help="The image to write.", show_default=False)],
    seed: Annotated[int, typer.Option("--seed", min=0, help="Another seed, another scene, unseen in training.")] = 7,
    as_json: JsonOption = False,
) -> None:
    """Draw a scene that the pocket model understands, and print requests about it with their true answers.

    [dim]groundprune scene --seed 7 scene.png[/]
    """
    from PIL import Image

    from groundprune.pocket.scenes import TEST_SEEDS, make_scene

    if not 0 <= seed < len(TEST_SEEDS):
        raise GroundPruneError(f"--seed must be 0 to {len(TEST_SEEDS) - 1} (got {seed})")
    drawn = make_scene(TEST_SEEDS[seed])
    save_image(Image.fromarray(drawn.image), writable_image(out))
    expressions = _requests(seed, drawn.objects, "rec", EXPRESSIONS)
    questions = _requests(seed, drawn.objects, "vqa", QUESTIONS)
    if as_json:
        print_json(
            {
                "image": str(out),
                "size": list(drawn.image.shape[1::-1]),
                "expressions": [{"text": q.text, "box": q.box} for q in expressions],
                "questions": [{"text": q.text, "answer": q.answer} for q in questions],
            }
        )
        return
    typer.echo(f"{out}: {drawn.image.shape[1]} x {drawn.image.shape[0]} pixels, {len(drawn.objects)} objects")
    typer.echo("\nexpressions, with their boxes (x1, y1, x2, y2)")
    _print_pairs([(q.text, ", ".join(map(str, q.box or ()))) for q in expressions])
    typer.echo("\nquestions, with their answers")
    _print_pairs([(q.text, str(q.answer)) for q in questions])


def _requests(seed: int, objects: Sequence[SceneObject], kind: str, wanted: int) -> list[Question]:
    """A function of the seed: requests of as many types as the scene yields, no text twice."""
    import numpy as np

    from groundprune.pocket.questions import REC_SHARES, VQA_SHARES, draw_question

    rng = np.random.default_rng([seed, wanted])
    types = list(REC_SHARES if kind == "rec" else VQA_SHARES)
    rng.shuffle(types)
    drawn = [draw_question(rng, objects, kind, type) for type in [*types, *types]]
    return list({question.text: question for question in drawn if question is not None}.values())[:wanted]


def _print_pairs(pairs: list[tuple[str, str]]) -> None:
    width = max((len(text) for text, _ in pairs), default=0)
    for text, truth in pairs:
        typer.echo(f"  {text:{width}}  {truth}")


@app.command()
def card(as_json: JsonOption = False) -> None:
    """Print the pocket model's card: what it is, how it was trained, and what it gets right."""
    from groundprune.pocket import checkpoint_path

    path = checkpoint_path() / "card.json" if as_json else checkpoint_path().parent / "CARD.md"
    if not path.is_file():
        raise GroundPruneError(f"the pocket model has no {path.name}")
    text = path.read_text(encoding="utf-8")
    if as_json:
        print_json(json.loads(text))
    else:
        typer.echo(text.rstrip())


@app.command()
def train(
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the weights and of the scenes.")] = 0,
    work: Annotated[
        Path | None, typer.Option("--work", help="Checkpoints of the run; the same call goes on from them.")
    ] = None,
    device: Annotated[str, typer.Option("--device", help="cpu or cuda.")] = "cpu",
    processes: Annotated[int, typer.Option("--processes", min=1, help="On a CPU: how many train together.")] = 1,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder to export to (default: inside of --work).")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A run of seconds that learns nothing.")] = False,
) -> None:
    """Train the pocket model from nothing, or go on with a run that was interrupted.

    [dim]groundprune pocket train --seed 1 --processes 2 --work runs/seed1 --out runs/seed1/checkpoint[/]
    [dim]groundprune ground scene.png "the star" --model runs/seed1/checkpoint[/]
    """
    if out is not None and out.exists() and not out.is_dir():
        raise GroundPruneError(f"{out}: is a file, give a folder to export to")
    quieten()
    from groundprune.loading import usable_device
    from groundprune.pocket.scenes import TRAIN_SEEDS
    from groundprune.pocket.training import train as train_pocket
    from groundprune.pocket.training.runtime import SEEDS_PER_RUN

    usable_device(device)
    runs = len(TRAIN_SEEDS) // SEEDS_PER_RUN
    if not 0 <= seed < runs:
        raise GroundPruneError(f"--seed must be 0 to {runs - 1}, each has scenes of its own (got {seed})")

    exported = train_pocket(seed=seed, work=work, device=device, processes=processes, out=out, quick=quick)
    typer.echo(f"exported to {exported}")
