"""`app`: the page in the browser."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path
from typing import Annotated

import typer

from groundprune.cli.console import announce, open_model
from groundprune.cli.options import DeviceOption, DtypeOption, ModelOption


def app(
    model: ModelOption = "pocket",
    port: Annotated[
        int | None, typer.Option("--port", min=1, max=65535, help="Default: the first free one from 7860 on.")
    ] = None,
    host: Annotated[
        str, typer.Option("--host", help="Which address to listen at; 0.0.0.0 lets the whole network in.")
    ] = "127.0.0.1",
    run: Annotated[
        Path | None, typer.Option("--run", help="A folder of results to look through.", show_default=False)
    ] = None,
    device: DeviceOption = None,
    dtype: DtypeOption = "auto",
) -> None:
    """A page in the browser: drag a slider and see what pruning does to boxes, ids and the samples of a run.

    It is served to this machine alone, and asks no other one for anything. Ctrl-C ends it.

    [dim]groundprune app[/]
    [dim]groundprune app --model llava-hf/llava-1.5-7b-hf --run out[/]
    """
    from groundprune.app.quiet import gradio
    from groundprune.app.serving import free_port

    gradio()
    free_port(host, port)
    announce(model)
    loaded = open_model(model, device, dtype)
    from groundprune.app.asking import Bench
    from groundprune.app.serving import serve

    serving = serve(Bench(*loaded, name=model), host, port, run)
    typer.echo(f"app      {serving.address}")
    try:
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()
    finally:
        serving.close()
