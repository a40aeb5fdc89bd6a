"""What a reader must know about the numbers of a table."""

from __future__ import annotations

from collections.abc import Sequence

from groundprune.evaluation.costs import ENCODING
from groundprune.evaluation.summary import Summary
from groundprune.report import overview

LEFT_OUT_SHOWN = 3


def notes(results: Sequence[Summary]) -> list[str]:
    """One sentence each: what a number is, how many samples, and what is missing."""
    first = results[0]
    samples = samples_told(first)
    kind = "95% intervals (of accuracies Wilson's, of differences the paired bootstrap's)"
    if len(results) > 1:
        reach = f"mean over {len(results)} training seeds [span of their {kind}]; {samples} each"
    else:
        reach = f"in brackets {kind}; {samples}, seed {first.run.get('seed', '?')}"
    if len(results) == 1 and overview.many(first):
        found = [*overview.leaders(first), *overview.schedules(first)]
        found.append(f"Percent (REC: Acc@0.5); {samples}, seed {first.run.get('seed', '?')}.{_widths(first)}")
    else:
        found = [f"Percent (REC: Acc@0.5), {reach}."]
        found += [line for result in results for line in overview.schedules(result)][:1]
    found += overview.skipped(first)
    malformed = [
        (r.rec.malformed / r.rec.total.n, r.setting.label)
        for result in results
        for r in result.settings
        if r.rec.malformed
    ]
    if malformed:
        share, label = max(malformed)
        found.append(f"Answers without a readable box count as wrong; at most {_percent(share)}% ({label}).")
    left_out = first.about.get("unreadable")
    if left_out:
        shown = left_out["images"][:LEFT_OUT_SHOWN]
        more = len(left_out["images"]) - len(shown)
        why = "; ".join(shown) + (f"; and {more} more (see summary.json)" if more else "")
        found.append(f"Left out: {left_out['samples']} samples that cannot be asked. {why}.")
    if not all(result.complete for result in results):
        found.append("Not complete: the run was interrupted, or is still going on.")
    return found


def cost_notes(results: Sequence[Summary]) -> list[str]:
    """What the numbers of the table of costs are; nothing where there are none."""
    first = results[0]
    of = [r.costs for r in first.settings if r.costs is not None]
    if not of and not first.timing:
        return []
    found = []
    if of:
        found.append(
            "FLOPs count a multiply-add as 2 and attention without masks, for the prompt of one sample; prefill is "
            "the LLM's, total is vision tower, projector, prefill and decoding. Tokens are of the prompt: those that "
            "the LLM's first layer reads, and the mean over its layers. In brackets: of unpruned."
        )
    seconds = [timing for name, timing in first.timing.items() if name != ENCODING]
    if seconds:
        least, most = min(t.samples for t in seconds), max(t.samples for t in seconds)
        timed = f"{most:,}" if least == most else f"{least:,} to {most:,}"
        encoding = first.timing.get(ENCODING)
        images = "" if encoding is None or encoding.mean is None else f" (encoding: {encoding.mean:.3g} s each)"
        found.append(
            f"Seconds are wall time per answer in batches of {first.about.get('batch_size', '?')}, over {timed} "
            f"answers a setting; images are encoded before{images}."
        )
    return found


def samples_told(result: Summary) -> str:
    """How many samples, and of what."""
    run = result.run
    if run.get("data") == "scenes" and "task" not in run:
        scenes = run.get("scenes", "?")
        return "1 expression and 1 question" if scenes == 1 else f"{scenes} expressions and as many questions"
    asked = result.settings[0]
    names = {"rec": "expression", "vqa": "question", "seg": "outline", "point": "point"}
    totals = [(task.total.n, names[kind]) for kind, task in asked.tasks.items()]
    counts = " and ".join(f"{n:,} {what}{'s' * (n != 1)}" for n, what in totals if n)
    where = " ".join(dict.fromkeys((str(run.get("data")), str(run.get("split")))))  # a file is its own split
    return f"{counts} of {where}, protocol {run.get('protocol')}"


def _widths(result: Summary) -> str:
    """How wide the intervals are that a table of many pruners has no room for."""
    shares = [task.total for r in result.settings for task in r.tasks.values() if task.total.n]
    widths = [100 * (high - low) for low, high in (share.interval for share in shares)]
    return f" A 95% Wilson interval is {min(widths):.0f} to {max(widths):.0f} points wide." if widths else ""


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"
