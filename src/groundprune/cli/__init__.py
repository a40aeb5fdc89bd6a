"""The command line. Results go to stdout, progress and warnings to stderr; what cannot be done is one line, exit 2.

torch and transformers are imported inside of the commands, so that `--help` and a wrong path answer at once.
"""

from __future__ import annotations

import errno
import logging
import sys
import warnings
from collections.abc import Sequence
from typing import Annotated

import typer

from groundprune.cli import (
    ask,
    audit,
    compare,
    convert,
    data,
    evaluate,
    ground,
    listing,
    pocket,
    report,
    scene,
    serve,
    study,
    verify,
)
from groundprune.cli.app import app as open_page
from groundprune.cli.console import complain, drop_output, write_anything
from groundprune.errors import GroundPruneError
from groundprune.version import __version__

INTERRUPTED = 130  # what shells give for a program that Ctrl-C ended
PIPE_CLOSED = 141  # and for one whose reader went away, as `head` does
# Loggers that warn of what their own optional parts lack, as soon as transformers finds their packages installed.
CHATTY = ("torchao", "torch.utils._pytree", "bitsandbytes")
UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EPIPE}

# typer raises click's usage errors or, in newer releases, those of a copy of its own.
UsageError: type[Exception] = typer.BadParameter.__bases__[0]

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("ground")(ground.ground)
app.command("ask")(ask.ask)
app.command("scene")(scene.scene)
app.command("compare")(compare.compare)
app.command("evaluate")(evaluate.evaluate)
app.command("report")(report.report)
app.command("serve", context_settings=serve.SETTINGS)(serve.serve)
app.command("verify")(verify.verify)
app.command("audit")(audit.audit)
app.command("app")(open_page)
app.command("study")(study.study)
app.command("list")(listing.list_pruners)
app.add_typer(pocket.app, name="pocket")
app.add_typer(convert.app, name="convert")
app.add_typer(data.app, name="data")


@app.callback(invoke_without_command=True)
def start(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
) -> None:
    """Prune the visual tokens of multimodal LLMs without losing their sense of where things are.

    Without --model, the pocket model answers: it is part of the package and knows drawn scenes of coloured shapes.

    [dim]groundprune scene --seed 7 scene.png[/]
    [dim]groundprune ground scene.png "the red circle" --pruner cls-visual --keep 0.5[/]
    [dim]groundprune compare --scenes 200[/]
    """
    if version:
        typer.echo(f"groundprune {__version__}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line (by default the process's own) and return its exit code."""
    write_anything()
    with warnings.catch_warnings():
        # Ours are for the user; those of the libraries are for their developers.
        warnings.simplefilter("ignore")
        warnings.filterwarnings("always", module="groundprune")
        warnings.showwarning = _show_warning
        for chatty in CHATTY:
            logging.getLogger(chatty).setLevel(logging.ERROR)
        try:
            words = sys.argv[1:] if arguments is None else list(arguments)
            code = app(args=words, prog_name="groundprune", standalone_mode=False, obj=words)
            sys.stdout.flush()  # a full disk shows here, or when Python has ended
        except UsageError as error:
            return complain(_with_help(error))
        except GroundPruneError as error:
            return complain(str(error))
        except OSError as error:
            if error.errno not in UNWRITABLE:
                raise
            drop_output()
            return PIPE_CLOSED if error.errno == errno.EPIPE else complain(f"cannot write: {error.strerror}")
        except (KeyboardInterrupt, typer.Abort):
            code = INTERRUPTED
    if code == INTERRUPTED:  # newer typer turns Ctrl-C into this exit code itself
        return complain("interrupted", INTERRUPTED)
    return code or 0


def _with_help(error: Exception) -> str:
    message = getattr(error, "format_message", error.__str__)()
    context = getattr(error, "ctx", None)
    return message if context is None else f"{message} (see {context.command_path} --help)"


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    complain(f"warning: {message}")
