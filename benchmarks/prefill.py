"""Prefills in turns: to the first token against the model's own time, sweeps of settings, and batches."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

import groundprune as gp
from benchmarks.cases import Case
from benchmarks.plan import Plan, kept
from benchmarks.turns import ratio, take_turns, timed, told
from groundprune.errors import Unservable
from groundprune.pruners import Pruner

NATIVE, STOCK = "native", "stock"
SWEEP = tuple(itertools.product(("cls-visual", "coverage", "random", "spatial"), ("0.75", "0.5", "0.25", "0.1")))


@torch.inference_mode()
def ttft(plan: Plan, out: Path) -> Mapping[str, Any]:
    """Time to the first token, tower and choice included, over tower + an LLM that is given as many tokens.

    Of pruners between the layers, which no count of tokens equals, and of `native` itself: over the unpruned model.
    """
    cells = plan.cells(out)
    for name, tokens in plan.follow("ttft", [*itertools.product(plan.models, plan.tokens)]):
        case_of = functools.cache(functools.partial(plan.case, name, tokens))  # made when a cell lacks
        for keep in plan.keeps:
            key = f"{name} {tokens} {keep}"
            found = cells.measure(key, lambda of=case_of, keep=keep: _to_first_token(plan, of(), keep))
            plan.say(f"ttft {key}: " + told(found["ratios"]))
    return cells.cells


@torch.inference_mode()
def batches(plan: Plan, out: Path, sizes: tuple[int, ...], pruner: str = "cls-visual") -> Mapping[str, Any]:
    """As `ttft`, by the number of prompts in a batch; and the time of a prompt over that in a batch of one."""
    cells = plan.cells(out)
    for name, tokens, keep in itertools.product(plan.models, plan.tokens, plan.keeps):
        for size in plan.follow("batch", sizes):
            key = f"{name} {tokens} {keep} {pruner} batch {size}"
            case = functools.partial(plan.case, name, tokens, size)
            found = cells.measure(key, lambda case=case, keep=keep: _batch(plan, case(), pruner, keep))
            plan.say(f"{key}: " + told(found["ratios"]))
    return cells.cells


@torch.inference_mode()
def sweep(plan: Plan, out: Path) -> Mapping[str, Any]:
    """Sixteen settings on one image: each with its tower, or encoded once; over one tower and sixteen LLM runs."""
    cells = plan.cells(out)
    for name, tokens in plan.follow("sweep", [*itertools.product(plan.models, plan.tokens)]):
        key = f"{name} {tokens}"
        case = functools.partial(plan.case, name, tokens)
        found = cells.measure(key, lambda case=case: _sweep(plan, case()))
        plan.say(f"sweep {key}: " + told(found["ratios"]))
    return cells.cells


def _to_first_token(plan: Plan, case: Case, keep: str) -> dict[str, Any]:
    variants: dict[str, Callable[[], Any]] = {STOCK: case.stock}
    over, skipped = {NATIVE: STOCK}, {}
    count = kept(keep, case.tokens)
    variants[NATIVE] = lambda: case.native(count)
    for name in plan.pruners:
        pruner = plan.pruner(name, keep)
        try:
            case.pruned(pruner)
        except Unservable as error:
            skipped[name] = str(error)
            continue
        variants[name], over[name] = _pruned(case, pruner), STOCK if pruner.inside else NATIVE
    return {"kept": count, "tokens": case.tokens, "skipped": skipped, **_measured(plan, case, variants, over)}


def _batch(plan: Plan, case: Case, name: str, keep: str) -> dict[str, Any]:
    count, pruner = kept(keep, case.tokens), plan.pruner(name, keep)
    variants = {STOCK: case.stock, NATIVE: lambda: case.native(count), name: _pruned(case, pruner)}
    found = _measured(plan, case, variants, {NATIVE: STOCK, name: NATIVE})
    per_prompt = sorted(each[name] for each in found["rounds"])[len(found["rounds"]) // 2] / case.batch
    return {"kept": count, "tokens": case.tokens, "batch": case.batch, "seconds a prompt": per_prompt, **found}


def _sweep(plan: Plan, case: Case) -> dict[str, Any]:
    pruners = [plan.pruner(*setting) for setting in SWEEP]
    counts = [kept(keep, case.tokens) for _, keep in SWEEP]

    def once() -> None:
        encoded = gp.encode(case.model, case.inputs, pruners)
        for pruner in pruners:
            given = {**case.words, "mm_encoder_outputs": encoded.select([0])}
            given |= {name: v for name, v in case.inputs.items() if name.endswith("grid_thw")}
            case.run(gp.prune_inputs(case.model, given, pruner))

    def native() -> None:
        output = case.tower()
        for count in counts:
            case.run(case.fewer(count, output))

    def each() -> None:
        for pruner in pruners:
            case.pruned(pruner)

    variants = {NATIVE: native, "encode once": once, "each with its tower": each}
    over = {"encode once": NATIVE, "each with its tower": NATIVE}
    return {"settings": len(SWEEP), "tokens": case.tokens, **_measured(plan, case, variants, over)}


def _pruned(case: Case, pruner: Pruner) -> Callable[[], Any]:
    return lambda: case.pruned(pruner)


def _measured(
    plan: Plan, case: Case, variants: Mapping[str, Callable[[], Any]], over: Mapping[str, str]
) -> dict[str, Any]:
    rounds = take_turns({n: timed(call, case.device) for n, call in variants.items()}, plan.rounds, plan.seed)
    return {"rounds": rounds, "ratios": {name: ratio(rounds, name, of) for name, of in over.items()}}
