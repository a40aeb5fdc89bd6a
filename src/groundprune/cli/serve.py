"""`serve`: vLLM's server with a pruned model."""

from __future__ import annotations

import shlex
from typing import Annotated

import typer

from groundprune.cli.options import DEFAULT_KEEP, read_pruning
from groundprune.cli.verify_vllm import prove_before_serving

SETTINGS = {"allow_extra_args": True, "ignore_unknown_options": True}


def serve(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="A folder, a Hub name, or pocket.", show_default=False)],
    # No short options: vLLM has its own, such as -tp.
    pruner: Annotated[
        str,
        typer.Option("--pruner", help="A name from `groundprune list` or path/to/file.py:Class; hired:alpha=0.3."),
    ] = "cls-visual",
    keep: Annotated[
        str | None, typer.Option("--keep", help=f"Share of an image's tokens that stay (default {DEFAULT_KEEP}).")
    ] = None,
    tokens: Annotated[str | None, typer.Option("--tokens", help="How many stay of an image, instead.")] = None,
    positions: Annotated[
        str, typer.Option("--positions", help="preserved; or reassigned, to see what that costs.")
    ] = "preserved",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the `vllm` command, and leave.")] = False,
    verify: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Prove first that a vLLM that is untested here is exact.")
    ] = True,
) -> None:
    """Serve a pruned model with vLLM, over an API like OpenAI's. Any option of `vllm serve` may follow.

    Pruned tokens take no KV slots. vLLM is your own installation; see its documentation for yours.

    A request may keep less, by another pruner or policy: mm_processor_kwargs {"groundprune": {"keep": 0.25}}. GET
    /groundprune tells the settings and what was kept and dropped.

    [dim]groundprune serve llava-hf/llava-1.5-7b-hf --keep 0.5 --pruner cls-visual --port 8000 -tp 2[/]
    """
    from groundprune.integrations.vllm.running import run_vllm
    from groundprune.integrations.vllm.server import serve_arguments

    chosen = read_pruning(pruner, keep, tokens, positions).pruner
    assert chosen is not None
    arguments = serve_arguments(model, chosen, positions, context.args, name=pruner)
    if dry_run:
        typer.echo(shlex.join(["vllm", *arguments]))
        return
    prove_before_serving(model, verify)
    typer.echo(f"groundprune: {shlex.join(['vllm', *arguments])}", err=True)
    run_vllm(arguments)
