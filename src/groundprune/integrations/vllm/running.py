"""vLLM's server in this process, and what ended a vLLM, in one line.

An engine runs in processes of its own: why it cannot start, or died, is in their log, and vLLM's error says no more
than that. So each of these processes, which load our plugin, writes the first error that it logs to a file.
"""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from groundprune.errors import GroundPruneError, first_line
from groundprune.integrations.vllm.server import OVERRIDES
from groundprune.integrations.vllm.settings import KEY

CAUSE = "GROUNDPRUNE_VLLM_CAUSE"  # an environment variable that names the file
FATAL = ("EngineCore", "WorkerProc")  # how vLLM's words begin for an error that ends an engine
KILLED = (
    "vLLM ended: its engine was killed, as a system that is out of memory does: lower --gpu-memory-utilization "
    "(on a CPU, the share of the machine's memory that vLLM reserves) or --max-model-len"
)


def run_vllm(arguments: Sequence[str]) -> None:
    """`vllm ARGUMENTS` (serve) in this process; returns or exits when it ends.

    Raises GroundPruneError, in one line, where it cannot start or ends with an error; its log has the rest.
    """
    from vllm.entrypoints.cli.serve import ServeSubcommand
    from vllm.entrypoints.serve.utils.api_utils import cli_env_setup
    from vllm.logger import configure_logging_from_args
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    # What `vllm` itself does; its own entry point asks for a distribution named vllm, which not every build has.
    cli_env_setup()
    parser, command = FlexibleArgumentParser(prog="groundprune"), ServeSubcommand()
    command.subparser_init(parser.add_subparsers(required=True))
    given = parser.parse_args(list(arguments))
    configure_logging_from_args(given)
    if KEY not in (given.hf_overrides or {}):
        raise GroundPruneError(f"an option hides {OVERRIDES}, without which nothing would be pruned")
    with cause_of_end() as cause, _deaths_are_errors():
        try:
            command.validate(given)
            command.cmd(given)
        except Exception as error:
            raise cause(error) from error


def why_ended(error: Exception) -> GroundPruneError:
    """What ended vLLM, in one line; our own reasons as they are, out of whatever they were wrapped into."""
    if isinstance(error, GroundPruneError):
        return error
    details: list[dict[str, Any]] = getattr(error, "errors", list)()  # pydantic's
    for detail in details:
        ours = detail.get("ctx", {}).get("error")
        if isinstance(ours, GroundPruneError):
            return ours
    reason = details[0]["msg"] if details else f"{type(error).__name__}: {first_line(error)}"
    if "Failed core proc" in reason:  # and none said why, see `cause_of_end`
        return GroundPruneError(KILLED)
    if "GPU memory utilization" in reason:
        reason += " (--gpu-memory-utilization, the share of the memory that vLLM reserves)"
    return GroundPruneError(f"vLLM ended: {reason}")


@contextlib.contextmanager
def cause_of_end() -> Iterator[Callable[[Exception], GroundPruneError]]:
    """Gives a `why_ended` that knows what the processes of an engine that is started meanwhile log."""
    with tempfile.TemporaryDirectory(prefix="groundprune-") as folder:
        file = Path(folder) / "cause"
        os.environ[CAUSE] = str(file)

        def cause(error: Exception) -> GroundPruneError:
            return GroundPruneError(file.read_text(encoding="utf-8")) if file.exists() else why_ended(error)

        try:
            yield cause
        finally:
            del os.environ[CAUSE]


def note_cause() -> None:
    """From now on, write the first error that ends an engine in this process to the file of `cause_of_end`."""
    if CAUSE in os.environ:
        logging.getLogger("vllm").addHandler(_Noting(os.environ[CAUSE]))


class _Noting(logging.Handler):
    def __init__(self, file: str):
        super().__init__(logging.ERROR)
        self.file = file

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        # "x": of several processes, the first one knows. Without a folder nobody waits for it.
        if isinstance(error, Exception) and record.getMessage().startswith(FATAL):
            with contextlib.suppress(OSError), open(self.file, "x", encoding="utf-8") as file:
                file.write(str(why_ended(error)))


@contextlib.contextmanager
def _deaths_are_errors() -> Iterator[None]:
    """vLLM's server ends without an error where its engine died, as if it had been asked to."""
    from vllm.entrypoints.launchers.api_server import entry

    stock = entry.serve_http

    async def serve_http(app: Any, *args: Any, **options: Any) -> Any:
        engine = app.state.engine_client  # which the app forgets when it ends
        ending = await stock(app, *args, **options)
        if ending.__name__ != "shutdown" and engine.errored:  # that is uvicorn's, after a signal
            ending.close()
            raise GroundPruneError(KILLED)
        return ending

    entry.serve_http = serve_http
    try:
        yield
    finally:
        entry.serve_http = stock
