"""One vLLM engine in a process of its own, whose end frees all that it held."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple

from groundprune.errors import GroundPruneError, first_line
from groundprune.integrations.vllm.running import KILLED, cause_of_end

_PATIENCE = 30  # seconds for an engine to end by itself


class Request(NamedTuple):
    """prompt: what vLLM's `generate` takes; tokens: of the answer, at most."""

    id: str
    prompt: dict[str, Any]
    tokens: int


class Reply(NamedTuple):
    """text: greedy, without special tokens; prompt_ids: what the LLM read; new_tokens: that it made."""

    id: str
    text: str
    prompt_ids: list[int]
    new_tokens: int


class Engine:
    """A context manager. arguments: of vLLM's AsyncEngineArgs. Answers come in any order.

    run: what the process does, by default it answers `Request`s; given a pipe's end and the arguments, it sends None
    once it is ready, and then what `reply` gives for what it was `ask`ed.

    Raises GroundPruneError where the engine cannot start, or ends before it was left.
    """

    def __init__(self, arguments: Mapping[str, Any], run: Callable[[Connection, dict[str, Any]], None] | None = None):
        context = multiprocessing.get_context("spawn")  # CUDA cannot be used in a fork
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=run or _run, args=(theirs, dict(arguments)))
        self._theirs = theirs

    def __enter__(self) -> Engine:
        self._process.start()
        self._theirs.close()
        try:
            self._receive()
        except BaseException:
            self._stop(patience=1)
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        with contextlib.suppress(OSError):
            self._connection.send(None)
        self._stop(_PATIENCE)

    def ask(self, request: Any) -> None:
        try:
            self._connection.send(request)
        except OSError as error:
            raise self._ended() from error

    def reply(self) -> Any:
        """Waits for the next answer, a `Reply` by default."""
        return self._receive()

    @property
    def running(self) -> bool:
        return self._process.is_alive()

    def _receive(self) -> Any:
        # The pipe alone would not tell: processes that vLLM started may hold its other end.
        wait([self._connection, self._process.sentinel])
        try:
            if not self._connection.poll():
                raise EOFError
            found = self._connection.recv()
        except (EOFError, OSError) as error:
            raise self._ended() from error
        if isinstance(found, GroundPruneError):
            raise found
        return found

    def _ended(self) -> GroundPruneError:
        self._process.join(1)  # which may have closed the pipe a moment before it ends
        code = self._process.exitcode
        how = f" with {signal.Signals(-code).name}" if code is not None and code < 0 else ""
        return GroundPruneError(f"vLLM's engine ended by itself{how}; its log says why")

    def _stop(self, patience: float) -> None:
        self._process.join(patience)
        if self._process.pid is not None:
            with contextlib.suppress(ProcessLookupError):  # all that vLLM started is of the process's group
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()  # which has no group of its own yet where it was only just started
        self._process.join()
        self._connection.close()


def leave_the_terminal(logging_level: str = "WARNING") -> None:
    """Make this process one that vLLM may run in."""
    os.setpgrp()  # Ctrl-C is for the process that started this one, which then ends it
    os.dup2(sys.stderr.fileno(), 1)  # vLLM logs to stdout, which is for results
    os.environ.setdefault("VLLM_LOGGING_LEVEL", logging_level)
    os.environ.setdefault("VLLM_WORKER_MULTIPROCESSING_METHOD", "spawn")


def _run(connection: Connection, arguments: dict[str, Any]) -> None:
    leave_the_terminal()
    asyncio.run(_answer_all(connection, arguments))


async def _answer_all(connection: Connection, arguments: dict[str, Any]) -> None:
    with cause_of_end() as cause:
        try:
            from vllm.engine.arg_utils import AsyncEngineArgs
            from vllm.v1.engine.async_llm import AsyncLLM

            engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments))
        except Exception as error:
            connection.send(cause(error))
            return
        connection.send(None)
        loop, tasks = asyncio.get_running_loop(), set[asyncio.Task[None]]()
        try:
            while (request := await loop.run_in_executor(None, next_request, connection)) is not None:
                tasks.add(task := loop.create_task(_answer(connection, engine, request, cause)))
                task.add_done_callback(tasks.discard)
        finally:
            for task in tasks:  # nobody waits for their answers
                task.cancel()
            engine.shutdown()
            del engine  # now: at the end of the process it would complain


def next_request(connection: Connection) -> Any:
    """None where no more will come."""
    try:
        return connection.recv()
    except (EOFError, OSError):
        return None


async def _answer(
    connection: Connection, engine: Any, request: Request, cause: Callable[[Exception], GroundPruneError]
) -> None:
    from vllm.sampling_params import RequestOutputKind, SamplingParams

    try:
        # The checkpoint's own settings, a penalty of repetition say, as transformers' `generate` has them.
        own = engine.model_config.get_diff_sampling_param()
        given = {"temperature": 0, "max_tokens": request.tokens, "output_kind": RequestOutputKind.FINAL_ONLY}
        greedy = SamplingParams(**(own | given))
        async for output in engine.generate(request.prompt, greedy, request_id=request.id):
            (said,) = output.outputs
            prompt = list(output.prompt_token_ids)
            connection.send(Reply(request.id, said.text.strip(), prompt, len(said.token_ids)))
    except Exception as error:
        alone = GroundPruneError(f"vLLM cannot answer {request.id}: {first_line(error)}")
        connection.send(cause(GroundPruneError(KILLED)) if engine.errored else alone)
