"""The step of decoding, memory at the peak and bytes of the cache: of pruned prompts, against those born as short."""

from __future__ import annotations

import contextlib
import functools
import itertools
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import StoppingCriteria, StoppingCriteriaList

import groundprune as gp
from benchmarks.cases import Case
from benchmarks.plan import Plan, kept
from benchmarks.prefill import NATIVE
from benchmarks.turns import ratio, take_turns, told
from groundprune.errors import Unservable
from groundprune.evaluation.accounting import Decoder
from groundprune.pruners import Pruner
from groundprune.studies.parts.meters import kv_bytes, peak

STEPS = 16
INSIDE = "fastv"  # whose `keep` is the average over the layers: as many bytes of cache as `native` has
POLICIES = ("preserved", "reassigned")


@torch.inference_mode()
def decode(plan: Plan, out: Path, steps: int = STEPS) -> Mapping[str, Any]:
    """Seconds of the median step of `generate`, over those of a prompt that is born with as many tokens."""
    return _each(plan, out, "decode", lambda case, keep: _decode(plan, case, keep, steps))


@torch.inference_mode()
def memory(plan: Plan, out: Path) -> Mapping[str, Any]:
    """Bytes of tensors at the peak of a prefill and a few steps, beside weights and inputs; and of the cache.

    Counted, not sampled: once per setting.
    """
    return _each(plan, out, "memory", lambda case, keep: _memory(plan, case, keep))


class Clock(StoppingCriteria):
    """When each token was there."""

    def __init__(self, device: torch.device):
        self._device = device
        self.times: list[float] = []

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
            self.times.append(time.perf_counter())
        else:
            self.times.append(time.process_time())
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def _each(plan: Plan, out: Path, title: str, measured: Callable[[Case, str], Mapping[str, Any]]) -> Mapping[str, Any]:
    cells = plan.cells(out)
    for name, tokens in plan.follow(title, [*itertools.product(plan.models, plan.tokens)]):
        case_of = functools.cache(functools.partial(plan.case, name, tokens))  # made when a cell lacks
        for keep in plan.keeps:
            key = f"{name} {tokens} {keep}"
            found = cells.measure(key, lambda of=case_of, keep=keep: measured(of(), keep))
            plan.say(f"{title} {key}: " + told(found["ratios"]))
    return cells.cells


def _decode(plan: Plan, case: Case, keep: str, steps: int) -> dict[str, Any]:
    before = plan.pruner("cls-visual", keep)
    count, output = kept(keep, case.tokens), case.tower()

    def step(given: Mapping[str, Any]) -> float:
        clock = Clock(case.device)
        case.model.generate(
            **given, max_new_tokens=steps + 1, do_sample=False, stopping_criteria=StoppingCriteriaList([clock])
        )
        return statistics.median(after - before for before, after in itertools.pairwise(clock.times))

    def in_context(pruner: Pruner) -> float:
        with gp.prune(case.model, pruner):
            return step(case.inputs)

    variants = {
        NATIVE: lambda: step(case.fewer(count, output)),
        "prune_inputs": lambda: step(gp.prune_inputs(case.model, case.inputs, before)),
        "prune": lambda: in_context(before),
    }
    with contextlib.suppress(Unservable):  # a keep below what its first layers see
        inside = plan.pruner(INSIDE, keep)
        inside.stages(case.model.config.get_text_config().num_hidden_layers)
        variants[INSIDE] = lambda: in_context(inside)
    rounds = take_turns(variants, plan.rounds, plan.seed)
    ratios = {name: ratio(rounds, name, NATIVE) for name in variants if name != NATIVE}
    return {"kept": count, "tokens": case.tokens, "steps": steps, "rounds": rounds, "ratios": ratios}


def _memory(plan: Plan, case: Case, keep: str) -> dict[str, Any]:
    count, output = kept(keep, case.tokens), case.tower()
    decoder = Decoder.of(case.model.config, case.model.dtype.itemsize)
    found: dict[str, Any] = {"kept": count, "tokens": case.tokens}
    found |= {"peak": {}, "cache": {}, "skipped": {}, "ratios": {}}

    def filled(run: Callable[[], Any], name: str) -> None:
        found["peak"][name], out = peak(run, case.device)
        found["cache"][name] = kv_bytes(out.past_key_values)

    filled(case.stock, "stock")
    filled(lambda: case.run(case.fewer(count, output)), NATIVE)
    for name in plan.pruners:
        pruner = plan.pruner(name, keep)
        try:
            case.pruned(pruner)
        except Unservable as error:
            found["skipped"][name] = str(error)
            continue
        for policy in POLICIES:
            filled(lambda pruner=pruner, policy=policy: case.pruned(pruner, policy), f"{name} {policy}")
        for what in ("peak", "cache"):
            value = found[what][f"{name} preserved"] / found[what][f"{name} reassigned"]
            found["ratios"][f"{name} {what}"] = {"over": "reassigned", "ratio": value, "interval": [value, value]}
    held = case.inputs["input_ids"].shape[1] - case.tokens + count
    found["cache by formula"] = case.batch * decoder.cache_bytes([held] * len(decoder.layers))
    return found
