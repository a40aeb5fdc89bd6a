"""The command line of the benchmarks: `python -m benchmarks --help`, in the root of a checkout."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import torch
import typer

from benchmarks.plan import ALL_KEEPS, ALL_PRUNERS, ROUNDS, Plan
from groundprune.cli.console import complain, quieten
from groundprune.errors import GroundPruneError

app = typer.Typer(
    help="Measure what pruning costs and saves, as ratios of variants that take turns. Results are stored after each "
    "cell; the same call goes on where it stopped.",
    add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False,
)  # fmt: skip
RESULTS = Path("results") / "benchmarks"

Out = Annotated[Path | None, typer.Option("--out", "-o", help="The result file (default results/benchmarks/...).")]
Models = Annotated[str | None, typer.Option("--model", "-m", help="Models of benchmarks/cases.py, with commas.")]
Counts = Annotated[str | None, typer.Option("--tokens", help="Visual tokens of a prompt, with commas.")]
Pruners = Annotated[str, typer.Option("--pruner", "-p", help="Pruners, with commas.")]
Keeps = Annotated[str, typer.Option("--keep", "-k", help="Shares that stay, with commas.")]
Device = Annotated[str, typer.Option("--device", help="cpu (one thread, processor time) or cuda.")]
Dtype = Annotated[str | None, typer.Option("--dtype", help="Default: float32 on a CPU, bfloat16 on a GPU.")]
Rounds = Annotated[int, typer.Option("--rounds", help="Rounds that are told; fewer than 5 have no interval.")]
Seed = Annotated[int, typer.Option("--seed", help="Of the order within rounds.")]
Tiny = Annotated[bool, typer.Option("--tiny", help="Tiny models: whether all of it runs, not how fast.")]


@app.command()
def ttft(
    out: Out = None, model: Models = None, tokens: Counts = None, pruner: Pruners = ALL_PRUNERS,
    keep: Keeps = ALL_KEEPS, device: Device = "cpu", dtype: Dtype = None, rounds: Rounds = ROUNDS,
    seed: Seed = 0, tiny: Tiny = False,
) -> None:  # fmt: skip
    """Time to the first token: pruned, over the tower and a model that is given as many tokens."""
    from benchmarks.prefill import ttft as run

    run(_plan(model, tokens, pruner, keep, device, dtype, rounds, seed, tiny), _path(out, "ttft", device, tiny))


@app.command()
def batch(
    out: Out = None, model: Models = None, tokens: Counts = None, keep: Keeps = "0.25", device: Device = "cpu",
    dtype: Dtype = None, rounds: Rounds = ROUNDS, seed: Seed = 0, tiny: Tiny = False,
    sizes: Annotated[str | None, typer.Option("--sizes", help="Prompts in a batch, with commas.")] = None,
) -> None:  # fmt: skip
    """The same by the number of prompts in a batch: 1 to 8 on a CPU, 1 to 64 on a GPU."""
    from benchmarks.prefill import batches as run

    counts = _numbers(sizes or ("1,2,4,8" if device == "cpu" else "1,4,16,64"))
    plan = _plan(model, tokens, "cls-visual", keep, device, dtype, rounds, seed, tiny)
    run(plan, _path(out, "batch", device, tiny), counts)


@app.command()
def sweep(
    out: Out = None, model: Models = None, tokens: Counts = None, device: Device = "cpu", dtype: Dtype = None,
    rounds: Rounds = ROUNDS, seed: Seed = 0, tiny: Tiny = False,
) -> None:  # fmt: skip
    """Sixteen settings with and without encode-once, over one tower run and sixteen LLM runs."""
    from benchmarks.prefill import sweep as run

    plan = _plan(model, tokens, "spatial", "0.5", device, dtype, rounds, seed, tiny)
    run(plan, _path(out, "sweep", device, tiny))


@app.command()
def decode(
    out: Out = None, model: Models = None, tokens: Counts = None, keep: Keeps = "0.5,0.25", device: Device = "cpu",
    dtype: Dtype = None, rounds: Rounds = ROUNDS, seed: Seed = 0, tiny: Tiny = False,
) -> None:  # fmt: skip
    """A step of decoding: pruned before the LLM and inside of it, over stock."""
    from benchmarks.decoding import decode as run

    plan = _plan(model, tokens, "cls-visual", keep, device, dtype, rounds, seed, tiny)
    run(plan, _path(out, "decode", device, tiny))


@app.command()
def memory(
    out: Out = None, model: Models = None, tokens: Counts = None, pruner: Pruners = ALL_PRUNERS,
    keep: Keeps = ALL_KEEPS, device: Device = "cpu", dtype: Dtype = None, seed: Seed = 0, tiny: Tiny = False,
) -> None:  # fmt: skip
    """Peak memory and bytes of the cache: preserved over reassigned ids."""
    from benchmarks.decoding import memory as run

    plan = _plan(model, tokens, pruner, keep, device, dtype, 1, seed, tiny)
    run(plan, _path(out, "memory", device, tiny))


@app.command()
def selection(
    out: Out = None,
    tokens: Annotated[str, typer.Option("--tokens", help="Visual tokens, with commas.")] = "576,2880,10000",
    device: Device = "cpu",
) -> None:
    """What choosing costs, as a share of the prefill of an LLM of LLaMA-7B's shape."""
    from benchmarks.selection import main

    main(_path(out, "selection", device, False), list(_numbers(tokens)), device)


@app.command()
def coverage(
    out: Out = None, model: Annotated[str, typer.Option("--model", "-m", help="pocket or smol.")] = "pocket"
) -> None:
    """Tune the pruner `coverage`, and set it against all others."""
    from benchmarks.coverage import main

    file = "summary" if model == "pocket" else model
    main(out or Path("results") / "coverage" / f"{file}.json", model)


@app.command()
def encode_once(out: Out = None) -> None:
    """What a sweep saves where the tower of LLaVA-1.5 is what costs."""
    from benchmarks.encode_once import main

    main(_path(out, "encode_once"))


@app.command()
def fastv_prefill(out: Out = None) -> None:
    """FastV at 2,880 tokens against the unpruned model and eager attention."""
    from benchmarks.fastv_prefill import main

    main(_path(out, "fastv_prefill"))


@app.command()
def vllm_throughput(out: Out = None, rounds: Rounds = ROUNDS) -> None:
    """Time of a request in vLLM, pruned over stock; runs in the environment of `make test-vllm`."""
    from benchmarks.vllm_throughput import main

    main(_path(out, "vllm_throughput"), rounds)


@app.command()
def official(
    root: Annotated[Path, typer.Argument(help="The folder that `fetch` of benchmarks/official filled.")],
    out: Out = None,
    tokens: Annotated[str, typer.Option("--tokens", help="576, 2916 (54 x 54, near LLaVA-NeXT's 2,880).")] = "576",
    batch: Annotated[str, typer.Option("--batch", help="Prompts in a batch, with commas.")] = "1",
    only: Annotated[str | None, typer.Option("--only", help="Methods, with commas (default: all).")] = None,
    device: Device = "cpu",
    rounds: Rounds = 6,
    seed: Seed = 0,
) -> None:
    """The authors' own code beside ours, on the same weights and inputs."""
    from benchmarks.official.compare import compare

    names = tuple(only.split(",")) if only else ()
    compare(root, _path(out, "official", device), _numbers(tokens), _numbers(batch), names, device, rounds, seed)


@app.command()
def fetch(root: Annotated[Path, typer.Argument(help="A folder outside of the checkout.")]) -> None:
    """Get the authors' code at named commits from GitHub, with an environment of its own, for `official`."""
    from benchmarks.official.sources import fetch as run

    run(root)


def _plan(
    models: str | None, tokens: str | None, pruners: str, keeps: str, device: str, dtype: str | None, rounds: int,
    seed: int, tiny: bool,
) -> Plan:  # fmt: skip
    if device == "cuda" and not torch.cuda.is_available():
        raise GroundPruneError("--device cuda: torch finds no GPU here")
    if device not in ("cpu", "cuda"):
        raise GroundPruneError(f"--device must be cpu or cuda (got {device})")
    torch.set_num_threads(1)
    small, large = ("llava-1024", "llava-1.5-7b,qwen2.5-vl-7b") if not tiny else 2 * ("tiny-llava,tiny-qwen2.5-vl",)
    dtype = dtype or ("float32" if device == "cpu" else "bfloat16")
    if not isinstance(getattr(torch, dtype, None), torch.dtype):
        raise GroundPruneError(f"--dtype must name a dtype of torch (got {dtype})")
    return Plan(
        models=tuple((models or (small if device == "cpu" else large)).split(",")),
        tokens=_numbers(tokens or ("36" if tiny else "576" if device == "cpu" else "576,2880,10000")),
        pruners=tuple(pruners.split(",")), keeps=tuple(keeps.split(",")), device=device, dtype=dtype,
        rounds=rounds, seed=seed,
    )  # fmt: skip


def _path(out: Path | None, name: str, device: str = "cpu", tiny: bool = False) -> Path:
    if tiny and out is None:
        raise GroundPruneError("--tiny measures nothing worth keeping: give --out")
    return out or RESULTS / f"{name}{'' if device == 'cpu' else '-' + device}.json"


def _numbers(text: str) -> tuple[int, ...]:
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 1:
        raise GroundPruneError(f"whole numbers from 1 on, separated by commas, are wanted (got {text!r})")
    return numbers


def run() -> int:
    """The exit code: 2 for what the caller can mend, told in one line."""
    quieten()
    try:
        app(standalone_mode=False)
    except GroundPruneError as error:
        return complain(str(error))
    except typer.Abort:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(run())
