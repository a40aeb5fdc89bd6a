"""Several processes answer one data set: who is who, and what they tell each other; accelerate joins them."""

from __future__ import annotations

import atexit
import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch

from groundprune.checkpoints.load import usable_device
from groundprune.errors import GroundPruneError
from groundprune.evaluation.devices import check_placing

T = TypeVar("T")
# A process waits for the others at the end of each window, which may take hours; that one died shows at once.
_PATIENCE = timedelta(days=30)


class Told(GroundPruneError):
    """What went wrong is said by another process, or by what launched them all."""


@dataclass(frozen=True)
class Ranks:
    """The processes of one run, as one of them sees them; `Ranks()` is a process that runs alone.

    Attributes:
        rank: which one this is; 0 holds the folder of results, shows progress and prints.
        count: how many there are.
        device: this one's own.
    """

    rank: int = 0
    count: int = 1
    device: torch.device | None = None

    @staticmethod
    def launched(device: str | torch.device | None = None) -> Ranks:
        """Join the processes that `accelerate launch` or `torchrun` started beside this one, if they did.

        Args:
            device: a kind, of which each process takes its own: "cpu" or "cuda"; by default GPUs where there are any.

        Returns:
            Ranks.

        Raises:
            GroundPruneError: accelerate is not installed, or the device is a single one or none.
        """
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:  # what every launcher of torch says
            return Ranks()
        check_placing(None, None, processes=2)
        from accelerate import PartialState

        # Only Python objects are exchanged, which gloo carries without a copy of them on the GPU.
        on_cpu = str(device) == "cpu" or not torch.cuda.is_available()
        state = PartialState(cpu=on_cpu, backend="gloo", timeout=_PATIENCE)
        # Python's end tears gloo's threads down in no order, and every 25th process or so would end by SIGABRT. Not
        # sooner than at the exit: the others end once this one has left, and the first is to have said why.
        atexit.register(state.destroy_process_group)
        ranks = Ranks(state.process_index, state.num_processes, state.device)
        with ranks.agreed():
            check_placing(device, None, ranks.count)
            usable_device(device)
        return ranks

    @staticmethod
    def wait_for_the_end() -> None:
        """Of the other processes, after Told."""
        from accelerate.utils import gather_object

        with contextlib.suppress(RuntimeError):
            gather_object([None])

    @property
    def main(self) -> bool:
        return self.rank == 0

    def gather(self, value: T) -> list[T]:
        """What each process gives, by rank; waits for all of them. Raises Told where one has ended."""
        if self.count == 1:
            return [value]
        from accelerate.utils import gather_object

        with _one_may_have_ended():
            return gather_object([value])

    def send(self, value: T, source: int = 0) -> T:
        """What the process `source` gives, to all. Raises Told where one has ended."""
        if self.count == 1:
            return value
        from accelerate.utils import broadcast_object_list

        with _one_may_have_ended():
            carried: list[Any] = [value if self.rank == source else None]
            return broadcast_object_list(carried, from_process=source)[0]

    @contextlib.contextmanager
    def agreed(self) -> Iterator[None]:
        """A GroundPruneError of one process is raised by all: by the first as it is, by the others as Told."""
        error = None
        try:
            yield
        except GroundPruneError as raised:
            error = raised
        first = next((found for found in self.gather(error) if found is not None), None)
        if first is not None:
            raise (error or first) if self.main else Told(str(first))


ALONE = Ranks()


@contextlib.contextmanager
def _one_may_have_ended() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise Told("another process of this run has ended") from error
