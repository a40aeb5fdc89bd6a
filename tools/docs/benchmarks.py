"""What the scripts of `benchmarks/` stored, as markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tools.docs.speed import shown
from tools.docs.tables import table

LIMIT = 0.05  # of the prefill


def coverage_table(found: Mapping[str, Any]) -> str:
    """`coverage` against every other pruner before the LLM, on scenes that it was not tuned on."""
    keeps, report = found["keeps"], found["report"]
    ours = {entry["text"]: entry for entry in report["coverage"]}
    header = ["pruner", "reads text", "mean", *keeps, *(f"coverage{' with text' * text} minus it" for text in ours)]
    rows = [
        ["**coverage**" + (", text" if t else ""), _yes(t), *_accuracies(entry), *("" for _ in ours)]
        for t, entry in ours.items()
    ]
    rows += [
        [o["pruner"], _yes(o["text"]), *_accuracies(o), *(_gain(o[f"against text={text}"]) for text in ours)]
        for o in report["others"]
    ]
    tuning = found.get("tuning")
    if tuning:
        chosen = f"the default spread ({tuning['spread']}) was chosen on the split {tuning['split']}"
    else:
        chosen = "coverage as it is by default, on which nothing here was tuned"
    said = [
        f"{found['metric']} in percent, {found['positions']} positions, {found['samples']} expressions, seed "
        f"{found['seed']}, split {report['split']}; {chosen}. Differences of the means, with paired 95% intervals.",
        *(_verdict(text, report["others"]) for text in ours),
    ]
    return table(header, rows, left=2) + "\n" + " ".join(said) + "\n"


def selection_table(found: Mapping[str, Any]) -> str:
    """Time to choose, as a share of the prefill."""
    rows = [
        [f"`{entry['pruner']}`", *(f"{100 * of['share']:.3g}% (keep {of['keep']})" for of in entry["of"].values())]
        for entry in found["pruners"]
    ]
    sizes = list(found["pruners"][0]["of"])
    first = {entry["pruner"]: entry["of"][sizes[0]]["share"] for entry in found["pruners"]}
    slow = [name for name, share in first.items() if share >= LIMIT]
    said = f"Not below {LIMIT:.0%} at {sizes[0]} tokens: {', '.join(slow)}." if slow else (
        f"All below {LIMIT:.0%} at {sizes[0]} tokens; the most is {100 * max(first.values()):.2g}% "
        f"({max(first, key=lambda name: first[name])})."
    )  # fmt: skip
    return table(["pruner", *(f"N = {int(n):,}" for n in sizes)], rows) + f"\n{said}\n"


def throughput_table(found: Mapping[str, Any]) -> str:
    """Time of a request in vLLM, stock and by the share of tokens that stay."""
    clocks = ("processor", "wall")
    rows = []
    for engine, slots in found["slots"].items():
        row = [engine, f"{slots:,}"]
        for clock in clocks:
            row += [f"{found['median'][clock][engine]:.3f}", shown(found["ratios"][clock].get(engine))]
        rows.append(row)
    header = ["engine", "slots a prompt", *(word for clock in clocks for word in (f"{clock} s", "over stock"))]
    machine = found["about"]["machine"]
    return table(header, rows) + (
        f"\n{found['pruner']}; {found['requests']} requests at a time, of one image each and {found['new_tokens']} "
        f"new tokens; seconds of a request, medians over {len(found['seconds']['processor'])} rounds in turns with "
        f"95% bootstrap intervals; vLLM {found['vllm']}, eager, {machine['dtype']}, one thread.\n"
    )


def prefill_table(found: Mapping[str, Any]) -> str:
    """FastV's prefill against the unpruned one, and against eager attention."""
    rows = [
        [name, f"{seconds:.2f}", f"{seconds / found['median']['fastv']:.2f}"]
        for name, seconds in found["median"].items()
    ]
    left = dict(tuple(pair) for pair in found["left"])
    stage = max(left)
    return table(["variant", "seconds", "times FastV's"], rows) + (
        f"\n{found['tokens']:,} visual tokens, {left[stage]} of them from layer {stage} of {found['layers']} on "
        f"(keep {found['keep']:g} on average); median of {len(found['seconds']['fastv'])}, processor time of one "
        "thread.\n"
    )


def _verdict(text: bool, others: Sequence[Mapping[str, Any]]) -> str:
    """Against those that know as much, or less where the text is read."""
    against = [(o["pruner"], o[f"against text={text}"]) for o in others if text or not o["text"]]
    tied = [name for name, d in against if d["interval"][0] <= 0 <= d["interval"][1]]
    better = [name for name, d in against if d["interval"][1] < 0]
    who = "With the text, coverage" if text else "From the image alone, coverage"
    parts = [f"beats {len(against) - len(tied) - len(better)} of {len(against)}"]
    parts += [f"is not told apart from {', '.join(tied)}"] if tied else []
    parts += [f"loses to {', '.join(better)}"] if better else []
    return f"{who} {', '.join(parts)}."


def _accuracies(entry: Mapping[str, Any]) -> list[str]:
    return [f"{100 * entry['mean']:.1f}", *(f"{100 * share:.1f}" for share in entry["keeps"])]


def _gain(difference: Mapping[str, Any]) -> str:
    low, high = difference["interval"]
    return f"{100 * difference['difference']:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"


def _yes(value: bool) -> str:
    return "yes" if value else "-"
