"""`verify`: is pruning exact on this model?"""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from groundprune.cli.console import announce, complain, open_model, print_json, progress
from groundprune.cli.options import (
    DEFAULT_KEEP,
    DeviceOption,
    Engine,
    JsonOption,
    ModelOption,
    TextTowerOption,
    comma_separated,
    refuse,
)
from groundprune.cli.verify_vllm import verify_vllm
from groundprune.errors import GroundPruneError, Unproven, Unservable, unknown

if TYPE_CHECKING:
    from groundprune.exactness.verify import Verification
    from groundprune.pruners import Pruner

FAILED, INCONCLUSIVE = 1, 3  # exit codes; 2 is for what cannot be done
ADVICE = (
    "Where the control is weak: drop more (a smaller --keep, another --pruner), or prove the family's code on sharp "
    "tiny weights (--family), as where the model computes too coarsely."
)
REQUEST = "the red circle"


STAGES = ("before", "inside")


def verify(
    context: typer.Context,
    model: ModelOption = "pocket",
    pruner: Annotated[
        str,
        typer.Option("--pruner", "-p", help="Names, separated by commas; all: every one that the model can serve."),
    ] = "all",
    keep: Annotated[str, typer.Option("--keep", "-k", help="Share of the visual tokens that stay.")] = DEFAULT_KEEP,
    family: Annotated[
        str | None,
        typer.Option("--family", help="Tiny random models of these families, or of all, in place of --model."),
    ] = None,
    stage: Annotated[
        str, typer.Option("--stage", help="Where the pruners act: before the LLM, inside of it, or both.")
    ] = ",".join(STAGES),
    text_tower: TextTowerOption = None,
    device: DeviceOption = None,
    engine: Annotated[
        Engine,
        typer.Option("--engine", help="vllm: your own installation of it, on tiny models of --family (default all)."),
    ] = Engine.transformers,
    short: Annotated[
        bool, typer.Option("--short", help="vllm: two families and one pruner, where none are named.")
    ] = False,
    dtype: Annotated[
        str | None, typer.Option("--dtype", help="vllm: float32 (default), bfloat16 or float16.")
    ] = None,
    compiled: Annotated[
        bool, typer.Option("--compiled", help="vllm: with its compilation and graphs, in place of eager.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Prove on a model that pruning is exact: what is dropped is gone, and nothing else changes.

    keep=1.0 must be the stock model, bit for bit. Preserved positions must equal the unpruned prompt under a mask
    that hides the dropped tokens: from the layer on that drops them. Reassigned positions must not, or the proof
    could not fail. Exit code 1: pruning is not exact. 3: nothing can be told, since a control is too weak, or since
    the model rounds activations too coarsely, or on scales that tokens share.

    With --engine vllm, that the installed vLLM says what transformers says: with images that lie in its caches, are
    split by a prefix or a chunk, and whose tokens, numbered anew, must make it say something else.

    [dim]groundprune verify --pruner cls-visual --keep 0.25[/]
    [dim]groundprune verify --family all --stage before,inside[/]
    [dim]groundprune verify --engine vllm[/]
    """
    if engine is Engine.vllm:
        theirs = ("--keep", "--stage", "--text-tower", "--device")
        refuse("--engine transformers", {option: _given(context, option) for option in theirs})
        named = model if _given(context, "--model") else None
        verify_vllm(named, family, pruner, dtype or "float32", short, compiled, as_json)
        return
    refuse("--engine vllm", {"--short": short or None, "--dtype": dtype, "--compiled": compiled or None})
    if family is None:
        announce(model)
    else:
        progress("building tiny models")
    from groundprune.exactness.verify import verify as measure

    pruners = _pruners(pruner, keep, stage)
    results: dict[str, list[Verification]] = {}
    for name, loaded, inputs in subjects(model, family, device):
        results[name] = []
        for each in pruners:
            try:
                given = inputs if family is None else _of_videos(loaded, each) or inputs
                results[name].append(measure(loaded, given, each, text=[REQUEST], text_tower=text_tower))
            except (Unservable, Unproven) as error:
                if pruner != "all":
                    raise
                # Without the pruners that the model can run instead: they are all tried here.
                reason = str(error).partition("; this model can run")[0].removeprefix(f"{each.label}: ")
                complain(f"{name}: skipped {each.label}: {reason}")
    if as_json:
        derived = ("passed", "verdict", "doubt", "oracle")
        rows = [(name, v) for name, verifications in results.items() for v in verifications]
        print_json([{"model": name, **asdict(v), **{word: getattr(v, word) for word in derived}} for name, v in rows])
    else:
        _print(results)
    verdicts = {v.verdict for verifications in results.values() for v in verifications}
    if not verdicts:
        raise typer.Exit(complain("nothing was proven: every pruner was skipped", INCONCLUSIVE))
    if verdicts - {"ok"}:
        raise typer.Exit(FAILED if "FAILED" in verdicts else INCONCLUSIVE)


def _given(context: typer.Context, option: str) -> bool | None:
    """True where the option is on the command line."""
    source = context.get_parameter_source(option.removeprefix("--").replace("-", "_"))
    return True if source is not None and source.name == "COMMANDLINE" else None


def _of_videos(model: Any, pruner: Pruner) -> dict[str, Any] | None:
    """A video of noise where the pruner reads videos and the tiny model takes them."""
    from groundprune.exactness.tiny import tiny_inputs
    from groundprune.families import family_of
    from groundprune.signals import VIDEO

    takes = "video" in family_of(model.config).token_ids(model.config)
    return tiny_inputs(model, [(1, 5, 7)], modality="video") if VIDEO in pruner.needs and takes else None


def _pruners(names: str, keep: str, stage: str) -> list[Pruner]:
    """Those that were named, or all that act at the stages."""
    from groundprune.pruners import Spec, pruner_names

    stages = comma_separated(stage)
    for each in stages:
        if each not in STAGES:
            raise unknown("stage", each, STAGES)
    specs = [Spec.parse(text) for text in (pruner_names() if names == "all" else comma_separated(names))]
    made = [spec.make_pruner(None if spec.has_budget else keep) for spec in specs]
    chosen = [each for each in made if ("inside" if each.inside else "before") in stages]
    if not chosen:
        raise GroundPruneError(f"none of the pruners {names!r} acts at the stage {stage!r}")
    return chosen


def subjects(model: str, family: str | None, device: str | None) -> list[tuple[str, Any, dict[str, Any]]]:
    """(name, model, inputs): the checkpoint on a drawn scene, or tiny models on noise."""
    if family is not None:
        from groundprune.exactness.tiny import tiny_inputs, tiny_model
        from groundprune.families import families

        names = list(families()) if family == "all" else comma_separated(family)
        return [(name, each, tiny_inputs(each, [(1, 5, 7)])) for name, each in ((n, tiny_model(n)) for n in names)]
    from PIL import Image

    from groundprune.checkpoints.prompts import chat_prompt
    from groundprune.pocket.scenes import TEST_SEEDS, make_scene

    loaded, processor = open_model(model, device, dtype="float32")  # in half precision rounding hides exactness
    scene = Image.fromarray(make_scene(TEST_SEEDS[0]).image)
    inputs = processor(images=scene, text=chat_prompt(processor, REQUEST), return_tensors="pt")
    return [(model, loaded, dict(inputs.to(loaded.device, loaded.dtype)))]


def _print(results: dict[str, list[Verification]]) -> None:
    from rich.console import Console
    from rich.table import Table

    from groundprune.exactness.arithmetic import TOLERANCE
    from groundprune.exactness.verify import CONTROL

    columns = "model", "pruner", "drops at", "kept", "keep=1 exact", "oracle", "tolerance", "tokens", "control", ""
    table = Table(*columns, box=None, pad_edge=False)
    for name, verifications in results.items():
        for v in verifications:
            table.add_row(
                name,
                v.pruner,
                ", ".join("before" if layer == 0 else f"layer {layer}" for layer in v.layers),
                ", ".join(f"{kept} of {total}" for kept, total in v.kept),
                "yes" if v.keep_all_exact else "NO",
                f"{v.difference:.1e}",
                f"{v.tolerance:.1e}",
                "same" if v.same_tokens else "DIFFERENT",
                f"{v.control:.1e}",
                v.verdict,
            )
    Console(width=None if sys.stdout.isatty() else 200).print(table)
    steps = max((v.steps for verifications in results.values() for v in verifications), default=0)
    typer.echo(
        "\noracle: largest relative difference of logits to an unpruned prompt that hides what was dropped, prefill "
        f"and {steps} steps; at most the tolerance: {TOLERANCE:g}, or what a model's own noise comes to.\n"
        f"control: the same with reassigned positions; above {CONTROL:g} and the tolerance, or nothing is proven."
    )
    for name, oracle in dict.fromkeys((n, v.oracle) for n, each in results.items() for v in each if v.linear_layers):
        typer.echo(f"{name}: {oracle}")
    for v in (v for verifications in results.values() for v in verifications):
        if v.doubt is not None:
            typer.echo(f"{v.pruner}: {v.verdict}: {v.doubt}")
        elif v.arithmetic is not None:
            typer.echo(f"{v.pruner}: {v.derivation}")
    if any(v.verdict == "inconclusive" for verifications in results.values() for v in verifications):
        typer.echo(ADVICE)
