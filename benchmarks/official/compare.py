"""The prefill, tower included, in the authors' code and in ours: same weights, inputs and counts, in turns.

Processor time of one thread on a CPU. A cell is a method at a size: theirs over ours, and how far the logits lie
apart where ours takes the ids that theirs does. In batches, also whether a prompt is answered as it is alone.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.official.sources import SOURCES, python_of
from benchmarks.storing import Cells
from benchmarks.turns import ratio, take_turns, told
from groundprune.errors import GroundPruneError, unknown
from groundprune.pruners.sparsevlm_rule import clusters_of

HERE = Path(__file__).parent
SIDES = {576: 24, 2916: 54}  # of one image: LLaVA-1.5's, and the square nearest to LLaVA-NeXT's 2,880 tokens
SAME = 1e-3  # relative, of logits: above it a prompt is not answered as it is alone
ATTEMPTS = ("sdpa", "eager")


@dataclass(frozen=True)
class Method:
    """theirs, ours: what the workers take, by the number of visual tokens. path: of the code, under `src`.

    attention: the implementations that the authors' code is asked for, in this order, until one runs.
    """

    theirs: Callable[[int], str]
    ours: Callable[[int], str]
    path: tuple[str, ...]
    environment: tuple[tuple[str, str], ...] = ()
    attention: tuple[str, ...] = ATTEMPTS


def _zip(n: int) -> str:
    count = n // 3
    contextual = (20 * count + 64) // 128
    return f"visionzip:{count - contextual}:{contextual}"


def _left(n: int, version: str) -> str:
    """What stages of 300 and 200 leave, the clusters of version 1.5 counted."""
    found = []
    for count in (300, 200):
        n = count + (clusters_of(n - count)[1] if version == "1.5" else 0)
        found.append(str(n))
    return f"sparsevlm {version} {'/'.join(found)}"


METHODS = {
    "plain": Method(lambda n: "plain", lambda n: "plain", ("llava",)),
    "visionzip": Method(_zip, lambda n: f"visionzip tokens={n // 3}", ("llava", "visionzip")),
    "divprune": Method(
        lambda n: "divprune", lambda n: f"divprune tokens={n // 4}", ("divprune/LLaVA",),
        (("LAYER_INDEX", "0"), ("SUBSET_RATIO", "0.25"), ("BASELINE", "OURS")),
    ),
    "fastv": Method(lambda n: "fastv:3:0.25", lambda n: "fastv keep=17/32 layer=3", ("llava",)),
    "sparsevlm-1.5": Method(
        lambda n: "sparsevlm", lambda n: _left(n, "1.5"), ("sparsevlm",),
        (("RETAIN_TOKN", "192"), ("USE_VERSION", "1_0")),
    ),
    "sparsevlm-2.0": Method(
        lambda n: "sparsevlm", lambda n: _left(n, "2.0"), ("sparsevlm",),
        (("RETAIN_TOKN", "192"), ("USE_VERSION", "2_0")),
    ),
    "fastervlm": Method(lambda n: f"fastervlm:{n // 4}", lambda n: f"fastervlm tokens={n // 4}", ("fastervlm",)),
    "pyramiddrop": Method(lambda n: "pyramiddrop:2,4,6", lambda n: "pyramiddrop keep=15/32", ("pyramiddrop",)),
}  # fmt: skip


class Worker:
    """A process that runs prefills when it is asked. Raises GroundPruneError where it does not start."""

    def __init__(self, command: Sequence[str | Path], paths: Sequence[Path], log: Path, **environment: str):
        path = os.pathsep.join(str(p) for p in (*paths, HERE))
        given = {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1", "HF_HUB_OFFLINE": "1"}
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                [str(part) for part in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
                text=True, env={**os.environ, **given, **environment},
            )  # fmt: skip
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._to, self._from = self._process.stdin, self._process.stdout
        try:
            self.versions = json.loads(self._from.readline())
        except ValueError:
            self.close()
            raise GroundPruneError(f"the worker did not start, see {log}") from None

    def ask(self, what: str, variant: str, rows: Sequence[int]) -> Any:
        """ "logits" or "seconds" of a prefill. Raises GroundPruneError with what the worker says."""
        self._to.write(json.dumps({"what": what, "variant": variant, "rows": list(rows)}) + "\n")
        self._to.flush()
        answer = json.loads(self._from.readline() or '{"error": "the worker died"}')
        if "error" in answer:
            raise GroundPruneError(answer["error"])
        return answer[what]

    def close(self) -> None:
        """End the process."""
        with contextlib.suppress(OSError):
            self._to.close()
        self._process.wait()


def compare(
    root: Path, out: Path, tokens: Sequence[int], batches: Sequence[int], only: Sequence[str], device: str,
    rounds: int, seed: int,
) -> None:  # fmt: skip
    """Measure every method at every size. root: what `fetch` filled."""
    root, console = root.resolve(), Console(stderr=True)
    for name in only:
        if name not in METHODS:
            raise unknown("method", name, METHODS)
    for count in tokens:
        if count not in SIDES:
            raise unknown("count of visual tokens", str(count), map(str, SIDES))
    if not python_of(root).exists():
        raise GroundPruneError(f"{root} holds no environment: python -m benchmarks fetch {root}")
    commits = {name: source.commit for name, source in SOURCES.items()}
    cells = Cells(out, seed=seed, device=device, dtype="float32", commits=commits)
    cells.cells = {key: cell for key, cell in cells.cells.items() if "error" not in cell}  # to be tried again
    for count in tokens:
        for name in only or METHODS:
            wanted = {size: f"{name} {count} batch {size}" for size in batches}
            if all(key in cells.cells for key in wanted.values()):
                continue
            with _pair(root, METHODS[name], count, device) as pair:
                for size, key in wanted.items():
                    asked = functools.partial(_cell, pair, METHODS[name], count, size, rounds, seed)
                    cell = cells.measure(key, asked)
                    said = cell.get("error") or f"{told(cell['ratios'])}, logits {cell['logits']:.0e} apart"
                    console.print(f"{key}: {said}", highlight=False, markup=False, soft_wrap=True)


def _cell(pair: Any, method: Method, count: int, size: int, rounds: int, seed: int) -> dict[str, Any]:
    if isinstance(pair, str):
        return {"error": pair}
    (theirs, ours), rows = pair, list(range(size))
    kind, variant = method.theirs(count), method.ours(count)
    found: dict[str, Any] = {
        "tokens": count, "batch": size, "theirs": kind, "ours": variant, "versions": [theirs.versions, ours.versions],
    }  # fmt: skip
    try:
        logits = [worker.ask("logits", v, rows) for worker, v in ((theirs, kind), (ours, variant))]
        found["logits"] = _far(*logits)
        if size > 1:
            for name, worker, v, of in (("theirs", theirs, kind, logits[0]), ("ours", ours, variant, logits[1])):
                alone = [worker.ask("logits", v, [row])[0] for row in rows]
                found[f"{name} in a batch against alone"] = _far(of, alone)
        times = take_turns(
            {"theirs": lambda: theirs.ask("seconds", kind, rows), "ours": lambda: ours.ask("seconds", variant, rows)},
            rounds, seed,
        )  # fmt: skip
    except GroundPruneError as error:
        return {**found, "error": str(error)}
    return {**found, "rounds": times, "ratios": {"theirs": ratio(times, "theirs", "ours")}}


@contextlib.contextmanager
def _pair(root: Path, method: Method, count: int, device: str) -> Iterator[Any]:
    """Workers of both sides, or what kept theirs from running."""
    shared = {"SIDE": str(SIDES[count]), "ROOT": str(root), "DEVICE": device}
    source = root / "src"
    fastv = source / "fastv" / "src" / "FastV" / "lmms-eval" / "fastv_kvcache.py"
    kind, said, workers = method.theirs(count), "", []
    for attention in method.attention:
        environment = {
            **shared,
            "METHOD": kind,
            "ATTENTION": attention,
            "FASTV": str(fastv),
            **dict(method.environment),
        }
        log = root / "logs" / f"{kind.partition(':')[0]}-{count}-{attention}.log"
        try:
            theirs = Worker(
                [python_of(root), HERE / "theirs.py"], [source / p for p in method.path], log, **environment
            )  # fmt: skip
            workers.append(theirs)
            theirs.ask("logits", kind, [0])
            break
        except GroundPruneError as error:
            said = str(error)
            while workers:
                workers.pop().close()
    else:
        yield said
        return
    try:
        paths = [Path(path) for path in sys.path if path]
        log = root / "logs" / f"ours-{count}.log"
        workers.append(Worker([sys.executable, HERE / "ours.py"], paths, log, **shared, ATTENTION="sdpa"))
        yield workers
    finally:
        for worker in workers:
            worker.close()


def _far(a: Sequence[Sequence[float]], b: Sequence[Sequence[float]]) -> float:
    """The largest difference, relative to the largest logit."""
    most = max(abs(x) for row in a for x in row)
    return max(abs(x - y) for one, other in zip(a, b, strict=True) for x, y in zip(one, other, strict=True)) / most
