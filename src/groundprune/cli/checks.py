"""`verify`: is pruning exact on this model?"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from groundprune.cli.console import complain, open_model, print_json
from groundprune.cli.options import (
    DEFAULT_KEEP,
    DeviceOption,
    JsonOption,
    ModelOption,
    TextTowerOption,
    comma_separated,
)
from groundprune.errors import Unservable

if TYPE_CHECKING:
    from groundprune.verification import Verification

FAILED = 1
REQUEST = "the red circle"


def verify(
    model: ModelOption = "pocket",
    pruner: Annotated[
        str,
        typer.Option("--pruner", "-p", help="Names, separated by commas; all: every one that the model can serve."),
    ] = "all",
    keep: Annotated[str, typer.Option("--keep", "-k", help="Share of the visual tokens that stay.")] = DEFAULT_KEEP,
    family: Annotated[
        str | None,
        typer.Option("--family", help="A tiny random model of this family, or of all, in place of --model."),
    ] = None,
    text_tower: TextTowerOption = None,
    device: DeviceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Prove on a model that pruning is exact: what is dropped is gone, and nothing else changes.

    keep=1.0 must be the stock model, bit for bit. Preserved positions must equal the unpruned prompt under a mask
    that hides the dropped tokens. Reassigned positions must not, or the proof could not fail.
    Exit code 1: one of the three does not hold.

    [dim]groundprune verify --pruner cls-visual --keep 0.25[/]
    [dim]groundprune verify --family all[/]
    """
    from groundprune.pruners import make_pruner, pruner_names

    names = pruner_names() if pruner == "all" else comma_separated(pruner)
    pruners = [make_pruner(name, keep) for name in names]
    from groundprune.verification import verify as measure

    results: dict[str, list[Verification]] = {}
    for name, loaded, inputs in _subjects(model, family, device):
        results[name] = []
        for each in pruners:
            try:
                results[name].append(measure(loaded, inputs, each, text=[REQUEST], text_tower=text_tower))
            except Unservable as error:
                if pruner != "all":
                    raise
                complain(f"{name}: skipped {each.label}: {error}")
    if as_json:
        print_json([{"model": n, **asdict(v), "passed": v.passed} for n, all_of in results.items() for v in all_of])
    else:
        for name, verifications in results.items():
            for verification in verifications:
                _print(name, verification)
    if not all(v.passed for verifications in results.values() for v in verifications):
        raise typer.Exit(FAILED)


def _subjects(model: str, family: str | None, device: str | None) -> list[tuple[str, Any, dict[str, Any]]]:
    """(name, model, inputs): the checkpoint on a drawn scene, or tiny models on noise."""
    if family is not None:
        from groundprune.families import families
        from groundprune.tiny import tiny_inputs, tiny_model

        names = list(families()) if family == "all" else comma_separated(family)
        models = [(name, tiny_model(name)) for name in names]
        return [(f"tiny {name}", each, tiny_inputs(each, [(1, 5, 7)])) for name, each in models]
    from PIL import Image

    from groundprune.asking import chat_prompt
    from groundprune.pocket.scenes import TEST_SEEDS, make_scene

    loaded, processor = open_model(model, device, dtype="float32")  # in half precision rounding hides exactness
    scene = Image.fromarray(make_scene(TEST_SEEDS[0]).image)
    inputs = processor(images=scene, text=chat_prompt(processor, REQUEST), return_tensors="pt")
    return [(model, loaded, dict(inputs.to(loaded.device, loaded.dtype)))]


def _print(name: str, verification: Verification) -> None:
    kept = ", ".join(f"{kept} of {total}" for kept, total in verification.kept)
    typer.echo(f"{name}, {verification.pruner}: {kept} tokens kept")
    for fact, measured, holds in verification.lines():
        typer.echo(f"  {'ok    ' if holds else 'FAILED'}  {fact}: {measured}")
