"""The vLLM that a proof asks: engines one after another, in one process, which is not the one that proves.

A process that imports vLLM takes half a minute to start, so that all engines of a proof share one; where vLLM crashes
it is started anew for the next.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from multiprocessing.connection import Connection
from typing import Any, NamedTuple, Protocol

import torch
from transformers.utils import logging

from groundprune.errors import GroundPruneError
from groundprune.integrations.vllm.engine import Engine, leave_the_terminal, next_request
from groundprune.integrations.vllm.running import why_ended
from groundprune.integrations.vllm.saying import STEPS, Request, Said, asked, say
from groundprune.integrations.vllm.stored_proofs import UNPROVEN, Installation, installation

# Of LLM's arguments, those that an older or newer vLLM may lack, whose defaults would do.
_OPTIONAL = ("mm_device_do_normalize", "kv_cache_memory_bytes", "use_tqdm_on_load")


class Speaker(Protocol):
    """An engine at a time. All raise GroundPruneError where vLLM cannot."""

    def start(self, arguments: Mapping[str, Any]) -> Installation:
        """End the engine that runs, if any, and start one with arguments of vLLM's `LLM`."""
        ...

    def say(self, requests: Sequence[Request], steps: int = STEPS) -> list[Said]:
        """What the engine says to all of them at once."""
        ...


class OwnProcess:
    """A `Speaker` in this process, which has imported no vLLM before, or has set itself up for it."""

    def __init__(self) -> None:
        self._llm: Any = None

    def start(self, arguments: Mapping[str, Any]) -> Installation:
        self.stop()
        with _in_one_line():
            from vllm.engine.arg_utils import EngineArgs
            from vllm.entrypoints.llm import LLM

            known = {each.name for each in fields(EngineArgs)}
            given = {name: value for name, value in arguments.items() if name in known or name not in _OPTIONAL}
            self._llm = LLM(**given)
            return installation(self._llm.llm_engine.vllm_config)

    def say(self, requests: Sequence[Request], steps: int = STEPS) -> list[Said]:
        with _in_one_line():
            return say(self._llm, [asked(*request) for request in requests], steps)

    def stop(self) -> None:
        """End the engine that runs, if any."""
        if self._llm is not None:
            # Not when it is collected: what it would take along then belongs to the next engine.
            with _in_one_line():
                self._llm.llm_engine.engine_core.shutdown()
            self._llm = None


class _Start(NamedTuple):
    arguments: dict[str, Any]


class _Say(NamedTuple):
    requests: list[Request]
    steps: int


@dataclass
class OtherProcess:
    """A context manager: a `Speaker` in a process of its own. compiled: as vLLM runs by default, with graphs."""

    compiled: bool = False
    _engine: Engine | None = None

    def __enter__(self) -> OtherProcess:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._engine is not None:
            self._engine.__exit__(*exception)
            self._engine = None

    def start(self, arguments: Mapping[str, Any]) -> Installation:
        if self._engine is None:
            self._engine = Engine({"compiled": self.compiled}, run=_speak).__enter__()
        return self._ask(_Start(dict(arguments)))

    def say(self, requests: Sequence[Request], steps: int = STEPS) -> list[Said]:
        found = self._ask(_Say(list(requests), steps))
        return [said._replace(logprobs=torch.tensor(said.logprobs)) for said in found]

    def _ask(self, message: NamedTuple) -> Any:
        assert self._engine is not None
        try:
            self._engine.ask(message)
            return self._engine.reply()
        except GroundPruneError:
            if not self._engine.running:
                self.__exit__()
            raise


def _speak(connection: Connection, arguments: dict[str, Any]) -> None:
    leave_the_terminal("ERROR")
    warnings.simplefilter("ignore")  # what is said about tiny models is for nobody
    logging.set_verbosity_error()
    set_up(arguments["compiled"])
    speaker = OwnProcess()
    connection.send(None)
    while (message := next_request(connection)) is not None:
        try:
            if isinstance(message, _Start):
                connection.send(speaker.start(message.arguments))
            else:
                # As lists: a tensor would be sent as a handle to memory that ends with this process.
                found = speaker.say(message.requests, message.steps)
                connection.send([said._replace(logprobs=said.logprobs.tolist()) for said in found])
        except GroundPruneError as error:
            connection.send(error)
    with contextlib.suppress(GroundPruneError):
        speaker.stop()


def set_up(compiled: bool) -> None:
    """The environment of a process that has imported no vLLM yet."""
    os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_NO_USAGE_STATS": "1", UNPROVEN: "1"}
    if not compiled:
        os.environ["TORCHDYNAMO_DISABLE"] = "1"  # enforce_eager leaves small functions that are compiled


@contextlib.contextmanager
def _in_one_line() -> Any:
    try:
        yield
    except Exception as error:
        raise why_ended(error) from error
