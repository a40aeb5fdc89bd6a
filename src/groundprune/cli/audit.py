"""`audit`: what does this code do to positions?"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from groundprune.cli.console import announce, print_json, progress
from groundprune.cli.options import DeviceOption, JsonOption
from groundprune.cli.verify import subjects
from groundprune.errors import GroundPruneError, first_line

if TYPE_CHECKING:
    from groundprune.audits.result import Audit


def audit(
    code: Annotated[
        str,
        typer.Argument(
            help="SCRIPT.py:FUNCTION, called with a model and its inputs; or a file that the recorder wrote.",
            show_default=False,
        ),
    ],
    model: Annotated[
        str,
        typer.Option("--model", "-m", help="A family, for a tiny random model of it; or pocket, or a checkpoint."),
    ] = "llava",
    page: Annotated[
        Path | None, typer.Option("--report", help="Write one HTML page: the ids of each layer over the image.")
    ] = None,
    device: DeviceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tell what code that prunes does to position ids: ours, a fork's, or your own.

    The model runs as it is, then FUNCTION(model, inputs) patches and calls it. In every decoder layer the position of
    each key is read from its rotation, whatever the code calls its ids. Exit code 0: preserved, or nothing pruned.
    1: not preserved. 3: it could not be told.

    [dim]groundprune audit fork.py:run --model qwen2_5_vl --report audit.html[/]
    [dim]groundprune audit run.audit[/]
    """
    if page is not None:
        _check_page(page)
    script, colon, name = code.rpartition(":")
    found = _of_function(Path(script), name, model, device) if colon and script.endswith(".py") else _of_file(code)
    if page is not None:
        from groundprune.report.audit_page import write_audit_page

        write_audit_page(found, page, code)
    if as_json:
        print_json(found.to_json())
    else:
        typer.echo(str(found))
        if page is not None:
            typer.echo(f"report {page}")
    if found.exit_code:
        raise typer.Exit(found.exit_code)


def _of_file(path: str) -> Audit:
    if path.endswith(".py"):
        raise GroundPruneError(f"name the function, too: {path}:FUNCTION")
    from groundprune.audits.recordings import read_recording
    from groundprune.audits.verdicts import judge

    return judge(read_recording(path))[0]


def _of_function(script: Path, name: str, model: str, device: str | None) -> Audit:
    if not script.is_file():
        raise GroundPruneError(f"no file {str(script)!r}")
    loaded, inputs = _subject(model, device)
    from groundprune.audits.context import audit as measure
    from groundprune.pruners.registry import module_of

    module = module_of(script)
    function = getattr(module, name, None)
    if not callable(function):
        own = [key for key, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]
        raise GroundPruneError(f"{script} has no function {name!r} (found: {', '.join(own) or 'none'})")
    return measure(_guarded(function, f"{script}:{name}"), loaded, inputs)


def _subject(model: str, device: str | None) -> tuple[Any, dict[str, Any]]:
    from groundprune.checkpoints.hub import OURS

    if not Path(model).exists() and "/" not in model and model not in OURS:
        progress("building a tiny model")
        from groundprune.families import families

        if model in families():
            return subjects("", model, device)[0][1:]
        from groundprune.errors import unknown

        raise unknown("model", model, [*families(), *OURS, "a folder", "a Hub name"])
    announce(model)
    return subjects(model, None, device)[0][1:]


def _guarded(function: Callable[..., Any], name: str) -> Callable[[Any, dict[str, Any]], None]:
    """What it prints goes to stderr, and what it raises is one line."""

    def call(model: Any, inputs: dict[str, Any]) -> None:
        with contextlib.redirect_stdout(sys.stderr):
            try:
                function(model, inputs)
            except GroundPruneError:
                raise
            except (Exception, SystemExit) as error:
                raise GroundPruneError(f"{name} failed: {type(error).__name__}: {first_line(error)}") from error

    return call


def _check_page(path: Path) -> None:
    if path.is_dir():
        raise GroundPruneError(f"{path}: is a folder, give a file to write")
    if not path.absolute().parent.is_dir():
        raise GroundPruneError(f"{path}: there is no folder {path.parent}")
