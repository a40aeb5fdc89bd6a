"""Settings of the study `filter`, and what the runs gave under them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from groundprune.evaluation.specs import Setting
from groundprune.studies.parts.attending import ATTENTION
from groundprune.studies.parts.effects import Effect, told_share
from groundprune.studies.parts.following import mean
from groundprune.studies.study import Run, Table

UNPRUNED = Setting.of()
EQUAL = ("background", "distractors", "any")  # of each as many tokens as the smaller of the first two has
SHARES = (0.25, 0.5, 0.75, 1.0)  # of the background; and as many at random
PRUNERS, KEEPS = ("random", "text-visual", "cls-visual"), ("0.25", "0.1")
NAMES = {"background": "background", "distractors": "distractors", "any": "at random"}


def equal(region: str) -> Setting:
    """So many tokens of a region dropped, as many as of the others of EQUAL."""
    return _dropping(f"equal-{region}")


def much(region: str, share: float) -> Setting:
    """So many tokens dropped as this share of the background: of it ("background"), or at random ("any")."""
    return _dropping(f"{region}-{share:g}")


def _dropping(name: str) -> Setting:
    # The budget says nothing: the intervention counts.
    return replace(Setting.of("random", "0.5"), intervention=name)


def attention(run: Run, name: str, of: str, minus: str | None = None) -> Effect:
    """The mean of a column of `looks` under a setting, or of its difference to another; over samples."""
    rows = run.measured.get(ATTENTION, {}).get(name, {}).values()
    return mean(run.model, [row[of] - (row[minus] if minus else 0.0) for row in rows])


def types_of(runs: Sequence[Run]) -> list[str]:
    """Of the expressions that were answered."""
    return sorted({row["type"] for run in runs for row in run.rows if row["kind"] == "rec"})


def tokens_dropped(runs: Sequence[Run]) -> str:
    """How many tokens equal counts are."""
    kept, whole = (
        [row["kept"] for run in runs for row in run.answers(setting, "rec")] for setting in (equal("any"), UNPRUNED)
    )
    if not kept or not whole:
        return "how many was not measured"
    return f"{sum(whole) / len(whole) - sum(kept) / len(kept):.1f} of {sum(whole) / len(whole):.0f} on average"


def accuracy_table(runs: Sequence[Run], types: Sequence[str]) -> Table:
    """Right answers under every setting, by type."""
    shown = {
        "unpruned": UNPRUNED,
        **{f"{NAMES[r]}, equal counts": equal(r) for r in EQUAL},
        **{f"{NAMES[r]}, {100 * s:g}% of the background": much(r, s) for r in ("background", "any") for s in SHARES},
        **{f"{p} keeps {k}": Setting.of(p, k) for p in PRUNERS for k in KEEPS},
    }
    rows = [
        [name, *(told_share(run.share(s, "rec", only)) for only in (None, *([t] for t in types)) for run in runs)]
        for name, s in shown.items() if any(run.share(s, "rec").n for run in runs)
    ]  # fmt: skip
    header = ["dropped", *(f"{name}, {run.model}" for name in ("all", *types) for run in runs)]
    return Table("REC, right answers in percent", header, rows)


def attention_table(runs: Sequence[Run]) -> Table:
    """All that `looks` says, by what was dropped."""
    units = {"target": ("on the target, % of the image's", 100), "image": ("on the image, %", 100)}
    units["entropy"] = ("entropy over the image, bits", 1)
    rows = []
    for name in (*(NAMES[r] for r in EQUAL), "whole background"):
        for part, (unit, scale) in units.items():
            for kind in ("_before", "_left", ""):
                if part != "image" or kind != "_left":
                    found = [attention(run, name, part + kind) for run in runs if run.measured.get(ATTENTION)]
                    told = [
                        f"{scale * e.value:.2f} [{scale * e.low:.2f}, {scale * e.high:.2f}]" for e in found if e.n
                    ]
                    when = {"_before": "before", "_left": "left over", "": "after"}[kind]
                    rows += [[name, unit, when, *told]] if len(told) == len(runs) else []
    return Table("Attention of the answer", ["dropped", "attention", "when", *(run.model for run in runs)], rows)


def _told(effect: Effect, scale: int) -> str:
    return f"{scale * effect.value:.2f} [{scale * effect.low:.2f}, {scale * effect.high:.2f}]"
