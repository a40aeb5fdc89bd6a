"""Study 9: what preserved ids cost in time and memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.figure import Figure

from groundprune.checkpoints.load import grounding_of
from groundprune.checkpoints.prompts import model_inputs, prompt_for
from groundprune.errors import Unservable
from groundprune.studies.parts.cost_tables import COLOURS, LINES, cost_table, draw_costs
from groundprune.studies.parts.costs import (
    DECODE,
    KV,
    MEMORY,
    NATIVE,
    PREFILL,
    PRESERVED,
    PRUNER,
    REASSIGNED,
    TOKENS,
    Bill,
)
from groundprune.studies.parts.drawing import legend, panels
from groundprune.studies.parts.effects import MARGIN_TIME, negative, no_difference, told
from groundprune.studies.parts.ratios import (
    ABOUT,
    ENOUGH,
    REPETITION,
    Costs,
    bytes_between,
    costs_of,
    equal_caches,
    minus_one,
)
from groundprune.studies.parts.sizes import QUICK_SIZES, SIZES
from groundprune.studies.study import FAILS, HOLDS, Bench, Claim, Findings, Run, Study

GIVEN = "given model"
REPETITIONS, QUICK_REPETITIONS = 4, 3  # of each run, of the models of real widths: those of two runs add up
OWN_REPETITIONS, QUICK_OWN_REPETITIONS = 12, 6  # of the run's own model
_DRAWN = {PREFILL: "prefill time", DECODE: "time per new token", MEMORY: "peak memory", KV: "KV cache"}


class Overhead(Study):
    """Preserved against reassigned ids, and both against a model that is given as few tokens."""

    number = 9
    name = "overhead"
    title = "The cost of preserved ids"
    question = "Do preserved position ids cost time or memory, in models of several sizes?"
    paper = "The abstract: no training, no extra memory, no extra compute. The paper prunes 25%, 50%, 75% and 90%."
    samples = (1, 1)

    def measure(self, bench: Bench) -> None:
        """The given model, then random models of real widths; a step per repetition."""

        def given() -> Bill:
            return Bill(bench.model, _inputs(bench))

        _measure(bench, GIVEN, given, QUICK_OWN_REPETITIONS if bench.quick else OWN_REPETITIONS)
        count = QUICK_REPETITIONS if bench.quick else REPETITIONS
        for size in QUICK_SIZES if bench.quick else SIZES:
            _measure(
                bench, str(size), lambda size=size: Bill(*size.build(bench.model.device, bench.model.dtype)), count
            )

    def findings(self, runs: Sequence[Run]) -> Findings:
        """No difference between the policies, and what is left to the limit."""
        costs = costs_of(runs, GIVEN)
        prefill, decode = ([c.between(what, PRESERVED, REASSIGNED) for c in costs] for what in (PREFILL, DECODE))
        native = [c.between(PREFILL, PRESERVED, NATIVE) for c in costs]
        memory = [bytes_between(c, REASSIGNED) for c in costs]
        to_native = [bytes_between(c, NATIVE) for c in costs]
        saved = [minus_one(c.ratio(PREFILL, PRESERVED, "0.5")) for c in costs]
        kv = equal_caches(costs)
        asked = "no extra compute (abstract)"
        claims = [
            Claim("preserved ids cost no prefill time", asked, told(prefill), no_difference(prefill, MARGIN_TIME)),
            Claim("preserved ids cost no time per token", asked, told(decode), no_difference(decode, MARGIN_TIME)),
            Claim(
                "preserved ids cost no memory at the peak", "no extra memory (abstract)", told(memory),
                no_difference(memory, MARGIN_TIME),
            ),
            Claim("the KV cache holds exactly as many bytes", "no extra memory (abstract)", *kv),
            Claim(
                "prefill takes as long as with as few tokens to begin with", "not tested", told(native),
                no_difference(native, MARGIN_TIME),
            ),
            Claim(
                "the peak is that of as few tokens to begin with", "not tested", told(to_native),
                no_difference(to_native, MARGIN_TIME),
            ),
            Claim("half of the tokens make prefill shorter", "not tested", told(saved), negative(saved, MARGIN_TIME)),
        ]  # fmt: skip
        return Findings(_answer(claims, costs), claims, [cost_table(c) for c in costs], _notes(runs, costs))

    def draw(self, runs: Sequence[Run]) -> Figure:
        """Each cost over the share of tokens that stay, as a ratio to the unpruned model."""
        figure, axes = panels(len(_DRAWN), across=2)
        costs = costs_of(runs, GIVEN)
        for ax, (what, title) in zip(axes, _DRAWN.items(), strict=True):
            for i, of in enumerate(costs):
                draw_costs(ax, of, what, COLOURS[i % len(COLOURS)])
            for variant, (marker, line, filled) in LINES.items():
                ax.plot(
                    [], [], color="#222222", marker=marker, linestyle=line, label=variant,
                    markerfacecolor="#222222" if filled else "white",
                )  # fmt: skip
            ax.set_title(title)
            ax.set_xticks([0, 25, 50, 75, 100])
            ax.set_xlabel("visual tokens kept (%)")
            ax.set_ylabel("of unpruned (%)")
            ax.set_ylim(0, max(110.0, ax.get_ylim()[1]))
            ax.grid(axis="y")
        legend(figure, axes)
        return figure


def _measure(bench: Bench, name: str, make: Callable[[], Bill], count: int) -> None:
    steps = [f"{name}/{REPETITION} {i}" for i in range(count)]
    if all(step in bench.steps for step in (f"{name}/{ABOUT}", *steps)):
        return
    if "skipped" in bench.steps.get(f"{name}/{ABOUT}", {}):
        return
    try:
        bill = make()
    except Unservable as error:
        bench.step(f"{name}/{ABOUT}", lambda why=str(error): {"skipped": why})
        return
    about = bench.step(f"{name}/{ABOUT}", bill.about)  # which also warms up
    for i, step in enumerate(steps):
        bench.step(step, lambda i=i: bill.repetition(1000 * bench.seed + i, about["inner"]))


def _inputs(bench: Bench) -> dict[str, Any]:
    sample, grounding = bench.data.samples[0], grounding_of(bench.model)
    prompt = prompt_for(bench.processor, grounding, sample.kind, sample.text)
    inputs = model_inputs(bench.processor, grounding, [sample.image], [prompt])
    return dict(inputs.to(bench.model.device, bench.model.dtype))


def _answer(claims: Sequence[Claim], costs: Sequence[Costs]) -> str:
    if not costs:
        return "Nothing was measured yet."
    told_time = {HOLDS: "cost no time", FAILS: "change the time"}.get(
        claims[0].verdict, "cost no time that could be told from noise here"
    )
    bytes_ = "exactly the same bytes of cache" if claims[3].verdict == HOLDS else "another number of bytes of cache"
    prefill = [c.between(PREFILL, PRESERVED, REASSIGNED).value for c in costs]
    half = [c.ratio(PREFILL, PRESERVED, "0.5").value for c in costs]
    span = f"{100 * min(prefill):+.1f}% to {100 * max(prefill):+.1f}%"
    at_half = f"{100 * min(half):.0f}% to {100 * max(half):.0f}%"
    return (
        f"Preserved ids {told_time} (prefill {span} against reassigned ids in {len(costs)} models) and need "
        f"{bytes_}; half of the tokens bring prefill to {at_half} of the unpruned model's."
    )


def _notes(runs: Sequence[Run], costs: Sequence[Costs]) -> list[str]:
    notes = [
        "beside the given model: random weights, real widths, few layers, a vocabulary of 100 and 576 visual tokens; "
        "runs of several trainings measure the same models, and their repetitions are taken together",
        "images are encoded before; variants take turns within a repetition, in random order, and only ratios within "
        "one are told: processor time on a CPU; intervals are over repetitions",
        f"prefill, then {TOKENS} tokens; the peak is of tensors beside weights and inputs; of memory nothing is "
        "sampled: its interval is the range over the keeps",
        f"choosing is gp.prune_inputs with the pruner {PRUNER}, in percent of the unpruned prefill; other pruners "
        "choose longer, under either policy",
        "native: a prompt whose image has as many tokens to begin with",
    ]
    for of in costs:
        noise = ", ".join(f"{_DRAWN[what]} {of.noise(what)}" for what in (PREFILL, DECODE))
        notes.append(f"{of.name}, the unpruned model against itself, in percent: {noise}")
        if len(of.repetitions) < ENOUGH:
            notes.append(f"{of.name}: {len(of.repetitions)} repetitions are too few for an interval of times")
    for run in runs:
        skipped = run.measured.get(f"{GIVEN}/{ABOUT}", {}).get("skipped")
        if skipped:
            notes.append(f"{run.model} could not run: {skipped}")
    return notes
