"""A run in one sentence, three samples and few numbers: what pruning takes, and what preserved ids give back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from groundprune.evaluation.summary import Share, Summary
from groundprune.report.charts import TASKS, Chart, asked, curve, percent, share_of
from groundprune.report.headline import Shown
from groundprune.report.notes import samples_told

ORDER = ("unpruned", "reassigned", "preserved")  # as the story goes
SAMPLES_SHOWN = 3
_SUBJECTS = {
    "rec": "accuracy of boxes",
    "vqa": "accuracy of short answers",
    "seg": "accuracy of outlines",
    "point": "accuracy of points",
}
_HOW = {
    "reassigned": "if they are renumbered",
    "preserved": "if they keep their position ids",
}


@dataclass(frozen=True)
class Line:
    """One setting in numbers. shares, falls: by kind; a fall is in points of the unpruned accuracy, as text."""

    name: str
    shares: dict[str, Share | None]
    falls: dict[str, str]


@dataclass(frozen=True, eq=False)
class Story:
    """What stands first in a report.

    Attributes:
        sentences: the headline, and one more for each further kind of question.
        facts: name and value: the model, the data, how many samples.
        kinds: of questions, those with answers.
        lines: by setting, in ORDER.
        curves: accuracy over kept tokens of the pruner in front, by kind; none where nothing is pruned.
    """

    sentences: list[str]
    facts: list[tuple[str, str]]
    kinds: list[str]
    lines: list[Line]
    curves: dict[str, Chart]


def tell(summary: Summary, shown: Shown) -> Story:
    """The story of a run at the pruner and budget in front; what the run does not hold is left out or said."""
    kinds = asked(shown.results.values())
    shares = {
        kind: {name: share_of(shown.results[name], kind) for name in ORDER if name in shown.results} for kind in kinds
    }
    found = {kind: {n: s.accuracy for n, s in of.items() if s is not None} for kind, of in shares.items()}
    lines = [
        Line(name, {k: shares[k][name] for k in kinds}, {k: fall(found[k], name) for k in kinds})
        for name in ORDER
        if name in shown.results
    ]
    charts: dict[str, Chart] = {}
    if shown.pruner is not None:
        charts = {kind: curve(summary, shown.pruner, kind, f"first-{kind}", ORDER) for kind in kinds}
    return Story(sentences(found, shown.pruner, shown.budget), facts(summary), kinds, lines, charts)


def facts(summary: Summary) -> list[tuple[str, str]]:
    """The model, the data and how many samples."""
    run = summary.run
    where = " ".join(dict.fromkeys(str(run[key]) for key in ("data", "split") if run.get(key)))
    return [
        ("model", str(run.get("model", "not said"))),
        ("data", f"drawn {where}" if run.get("data") == "scenes" else where or "not said"),
        ("samples", samples_told(summary)),
    ]


def sentences(found: Mapping[str, Mapping[str, float]], pruner: str | None, budget: str | None) -> list[str]:
    """One sentence per kind of question: the first says how much is kept and how far accuracy falls.

    found: by kind, accuracies 0..1 of those of ORDER that were run. budget: "0.5" or "64 tokens".
    """
    told = [(kind, of) for kind, of in found.items() if of]
    if not told:
        return ["There are no answers yet."]
    (kind, of), *others = told
    start = "With nothing pruned" if pruner is None else _kept(budget or "")
    return [f"{start}, {_sentence(kind, of)}", *(_listed(kind, of) for kind, of in others)]


def fall(of: Mapping[str, float], name: str) -> str:
    """How far a setting lies below the unpruned one, in points with a sign; "" where that is not known."""
    if name == "unpruned" or not {"unpruned", name} <= set(of):
        return ""
    points = f"{100 * (of[name] - of['unpruned']):+.1f}"
    return "0" if float(points) == 0 else points.replace("-", "\N{MINUS SIGN}")


def _sentence(kind: str, of: Mapping[str, float]) -> str:
    subject, whole = _SUBJECTS[kind], of.get("unpruned")
    pruned = [name for name in ORDER[1:] if name in of]
    if not pruned:
        return f"{subject} ({TASKS[kind]}) is {percent(of['unpruned'])}%."
    first, *others = pruned
    moved = _moved(whole, of[first])
    told = [f"{subject} ({TASKS[kind]}) {moved} {_HOW[first]}"]
    for name in others:
        further = _moved(whole, of[name])
        if further.startswith("falls") and moved.startswith("falls"):
            further = f"{'but only' if of[name] > of[first] else 'and'} to {percent(of[name])}%"
        else:
            further = f"and {further}"
        told.append(f"{further} {_HOW[name]}")
    return ", ".join(told) + "."


def _listed(kind: str, of: Mapping[str, float]) -> str:
    subject = _SUBJECTS[kind]
    values = ", ".join(f"{percent(of[name])}% {name}" for name in ORDER if name in of)
    return f"{subject[:1].upper()}{subject[1:]} ({TASKS[kind]}): {values}."


def _moved(before: float | None, after: float) -> str:
    """ "falls from 99.6% to 1.3%"."""
    to = f"{percent(after)}%"
    if before is None:
        return f"is {to}"
    if percent(before) == percent(after):
        return f"stays at {to}"
    return f"{'falls' if after < before else 'rises'} from {percent(before)}% to {to}"


def _kept(budget: str) -> str:
    if "tokens" in budget:
        return f"With {budget.split()[0]} visual tokens kept"
    return f"With {100 * float(Fraction(budget)):.3g}% of the visual tokens kept"
