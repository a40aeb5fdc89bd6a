"""`scene`: a drawing that the pocket model understands."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from groundprune.cli.console import print_json, save_image, writable_image
from groundprune.cli.options import JsonOption
from groundprune.errors import GroundPruneError

if TYPE_CHECKING:
    from groundprune.pocket.questions import Question
    from groundprune.pocket.scenes import SceneObject

EXPRESSIONS = 3
QUESTIONS = 4


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
