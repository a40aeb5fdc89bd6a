"""`--processes`: accelerate launches this command line several times, and each process joins the others."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from groundprune.errors import GroundPruneError

if TYPE_CHECKING:
    from groundprune.evaluation.processes import Ranks

_REFUSED, _INTERRUPTED = 2, 130


def launched() -> bool:
    """Whether a launcher started this process beside others."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1  # what every launcher of torch says


@contextlib.contextmanager
def joined(processes: int | None, device: str | None) -> Iterator[Ranks | None]:
    """The processes that a launcher started, of which this is one; None where it started none.

    Mistakes that all of them make are said once, and so is Ctrl-C. Raises GroundPruneError where there are not
    `processes`.
    """
    if not launched():
        yield None
        return
    from groundprune.evaluation.processes import Ranks, Told

    main = os.environ.get("RANK", "0") == "0"
    if not main:
        warnings.simplefilter("ignore")  # the first says them
    try:
        ranks = Ranks.launched(device)
        with ranks.agreed():
            if processes not in (None, ranks.count):
                raise GroundPruneError(f"--processes {processes}, but a launcher has started {ranks.count}")
        yield ranks
    except Told:
        Ranks.wait_for_the_end()  # a launcher ends all with the first that ends, which is to be the one that speaks
        raise SystemExit(_REFUSED) from None
    except KeyboardInterrupt:
        if main:
            raise
        raise SystemExit(_INTERRUPTED) from None


def launch(words: Sequence[str], processes: int) -> None:
    """Run this command line in several processes, and wait for them.

    words: the command line without the program's name. Raises GroundPruneError where one of them was killed, and
    SystemExit where one has ended otherwise, and has said why.
    """
    import torch
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    options = {
        "num_processes": processes, "num_machines": 1, "mixed_precision": "no", "dynamo_backend": "no",
        "main_process_port": 0, "num_cpu_threads_per_process": max(1, torch.get_num_threads() // processes),
    }  # fmt: skip
    given = [f"--{name}={value}" for name, value in options.items()]
    # --multi_gpu is its word for torch's launcher, which serves processors as well.
    line = launch_command_parser().parse_args(["--multi_gpu", *given, "--module", "groundprune", *words])
    logging.disable(logging.CRITICAL)  # what a process says for itself would be said again
    try:
        launch_command(line)
    except ChildFailedError as error:
        _end({rank: failure.exitcode for rank, failure in error.failures.items()}, processes)
    except SignalException as error:
        raise SystemExit(128 + error.sigval) from None
    finally:
        logging.disable(logging.NOTSET)


def _end(codes: dict[int, int], processes: int) -> None:
    """codes: exit codes by process; the negative ones are signals, of which SIGTERM may be the launcher's own."""
    said = [code for code in codes.values() if code > 0]
    for rank, code in codes.items():
        if code < 0 and not (said and -code == signal.SIGTERM):
            killed = f"process {rank} of {processes} was ended by {signal.Signals(-code).name}"
            raise GroundPruneError(f"{killed}: the same command goes on from what --out holds")
    raise SystemExit(max(said))
