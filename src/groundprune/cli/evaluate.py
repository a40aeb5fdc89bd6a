"""`evaluate`: a model on a benchmark, unpruned and under every pruner, budget and position policy."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from groundprune.cli.console import announce, quieten, show_summary
from groundprune.cli.options import (
    CostsOption,
    CountsOption,
    DeviceOption,
    DtypeOption,
    Engine,
    JsonOption,
    KeepsOption,
    ModelOption,
    ResultsOption,
    TextTowerOption,
    grid_of,
    refuse,
)
from groundprune.cli.processes import joined, launch
from groundprune.errors import GroundPruneError


def evaluate(
    context: typer.Context,
    model: ModelOption = "pocket",
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            "-d",
            help="scenes, smol:held-out, refcoco:val, refcoco+:testA, refcocog:val, gqa:testdev, "
            "gqa:testdev-spatial, screenspot:v1, screenspot:v2, screenspot:pro, FILE.jsonl, FILE.parquet:SPLIT, "
            "FOLDER:SPLIT or hub:OWNER/NAME:SPLIT (default: the model's scenes).",
        ),
    ] = None,
    data_root: Annotated[
        Path | None,
        typer.Option("--data-root", help="Folder of the benchmarks (default: data), or of a file's images."),
    ] = None,
    protocol: Annotated[
        str, typer.Option("--protocol", help="native: the model's own prompt and frame; paper: lmms-eval's task.")
    ] = "native",
    task: Annotated[
        str,
        typer.Option("--task", help="What answers an expression: rec, a box; seg, by an outline; point, by a point."),
    ] = "rec",
    limit: Annotated[int | None, typer.Option("--limit", "-n", help="Only the first so many samples.")] = None,
    pruner: Annotated[
        str | None,
        typer.Option("--pruner", "-p", help="As in compare; all: every registered one."),
    ] = None,
    keep: KeepsOption = None,
    tokens: CountsOption = None,
    positions: Annotated[
        str | None, typer.Option("--positions", help="Policies, separated by commas (default: as in compare).")
    ] = None,
    out: ResultsOption = None,
    batch_size: Annotated[
        int, typer.Option("--batch-size", "-b", help="Prompts that run together; halved where memory runs out.")
    ] = 64,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Which scenes, where they are the data.")] = 0,
    engine: Annotated[
        Engine, typer.Option("--engine", help="What runs the model; vllm is your own installation of it.")
    ] = Engine.transformers,
    tensor_parallel: Annotated[
        int | None,
        typer.Option("--tensor-parallel-size", min=1, help="vllm: over how many devices a model is split."),
    ] = None,
    data_parallel: Annotated[
        int | None, typer.Option("--data-parallel-size", min=1, help="vllm: how many copies of the model answer.")
    ] = None,
    engine_args: Annotated[
        str | None, typer.Option("--engine-args", help="vllm: further arguments of its engine, as a JSON object.")
    ] = None,
    text_tower: TextTowerOption = None,
    processes: Annotated[
        int | None,
        typer.Option("--processes", min=1, help="How many share the samples, each with a model; needs accelerate."),
    ] = None,
    device: DeviceOption = None,
    device_map: Annotated[
        str | None,
        typer.Option(
            "--device-map", help="auto: a model that is too large for one GPU goes over all; needs accelerate."
        ),
    ] = None,
    dtype: DtypeOption = "auto",
    costs: CostsOption = False,
    as_json: JsonOption = False,
) -> None:
    """Measure what pruning costs on a benchmark: RefCOCO, RefCOCO+, RefCOCOg, GQA, data of your own, or drawn scenes.

    Every image goes through the vision tower once (in vLLM once per setting). Results name protocol, source and
    split.

    [dim]groundprune evaluate --limit 50 --pruner cls-visual --keep 0.5[/]
    [dim]groundprune evaluate --model llava-hf/llava-1.5-7b-hf --data refcoco:val --protocol paper
    --positions preserved,reassigned --out runs/llava[/]
    """
    with joined(processes, device) as ranks:
        with ranks.agreed() if ranks else contextlib.nullcontext():
            announce(model)
            quieten()
            from groundprune.data.sources import scenes_of

            data = data or scenes_of(model)
            chosen: dict[str, Any] = {
                "limit": limit, "data_root": data_root, "batch_size": batch_size,
                "seed": seed, "task": task, **grid_of(pruner, keep, tokens, positions),
            }  # fmt: skip
            of_vllm = _engine_args(tensor_parallel, data_parallel, engine_args)
            several = processes if ranks is None else ranks.count
            if engine is Engine.vllm:
                own = {"--text-tower": text_tower, "--device": device, "--device-map": device_map}
                refuse("--engine transformers", own)
                if several is not None:
                    raise GroundPruneError("--processes needs --engine transformers; vllm has --data-parallel-size N")
            else:
                refuse("--engine vllm", dict.fromkeys((f"--{key.replace('_', '-')}" for key in of_vllm), True))
        if engine is Engine.vllm:
            from groundprune.integrations.vllm.answering import evaluate as run_in_vllm

            own = {} if dtype == "auto" else {"dtype": dtype}
            summary = run_in_vllm(model, data, engine=of_vllm | own, protocol=protocol, out=out, **chosen)
        else:
            from groundprune.evaluation.driver import check
            from groundprune.evaluation.driver import evaluate as run
            from groundprune.evaluation.processes import ALONE

            chosen |= {"device": device, "device_map": device_map}
            if several is not None and several > 1 and ranks is None:
                check(data, processes=several, protocol=protocol, **chosen)
                launch(context.obj, several)
                return
            given = {"text_tower": text_tower, "dtype": dtype, "protocol": protocol, "out": out}
            summary = run(model, data, ranks=ranks or ALONE, **given, **chosen)
    if ranks is not None and not ranks.main:
        return
    if not as_json:
        about = summary.run
        typer.echo(f"data     {about['data']}, {about['split']} ({about['source']}); protocol: {protocol}")
    show_summary(summary, out, as_json, costs)


def _engine_args(tensor_parallel: int | None, data_parallel: int | None, engine_args: str | None) -> dict[str, Any]:
    try:
        further = json.loads(engine_args or "{}")
    except ValueError:
        further = None
    if not isinstance(further, dict):
        raise GroundPruneError(f"--engine-args takes a JSON object (got {engine_args})")
    sizes = {"tensor_parallel_size": tensor_parallel, "data_parallel_size": data_parallel}
    return {**further, **{key: size for key, size in sizes.items() if size is not None}}
