"""Study 8: questions about where things are, against the others."""

from __future__ import annotations

import re
from collections.abc import Sequence

from matplotlib.figure import Figure

from groundprune.data.samples import Sample
from groundprune.evaluation.specs import Setting
from groundprune.studies.parts.contrasts import (
    Terms,
    answered,
    between,
    cell,
    contrast,
    effect_line,
    mean,
    percent,
    points,
    total,
)
from groundprune.studies.parts.drawing import legend, panels, percent_axis
from groundprune.studies.parts.effects import Effect, negative, no_difference, positive, told
from groundprune.studies.study import FAILS, HOLDS, Bench, Claim, Findings, Run, Study, Table

UNPRUNED = Setting.of()
PRUNERS = ("cls-visual", "text-visual", "random", "spatial")
KEEPS = ("0.75", "0.5", "0.25")
QUICK_PRUNERS = ("cls-visual", "random")
QUICK_KEEPS = ("0.75", "0.5")
POLICIES = ("preserved", "reassigned", "reassigned-image", "stretched")
STEP = "spatial"  # of `measure`: ids of the questions that are about positions
TWO_WAY = (
    "existence",
    "size",
)  # of the pocket: as the spatial ones, two answers, and so right half the time by chance
_POSITION = re.compile(r"\b(left|right|above|below|front|behind)\b")  # as groundprune.data.gqa looks for it
_GROUPS = {"spatial": "spatial questions", "others": "all others", "two-way": "others with two answers"}


class SpatialVqa(Study):
    """Whether ids matter to VQA where it asks for places."""

    number = 8
    name = "spatial-vqa"
    title = "Spatial questions"
    question = "Do questions about where things are need their ids kept, as boxes do, while other questions do not?"
    paper = (
        "Not tested apart: GQA as a whole hardly moves, and loses less than 1 point with ids preserved. Whether that "
        "holds for GQA's spatial questions is what readers ask next."
    )
    samples = (500, 150)
    kinds = ("vqa",)

    def settings(self, quick: bool) -> list[Setting]:
        """Unpruned, and several pruners and keeps under every policy."""
        pruners, keeps = (QUICK_PRUNERS, QUICK_KEEPS) if quick else (PRUNERS, KEEPS)
        return [UNPRUNED, *(cell(p, k, ids) for p in pruners for k in keeps for ids in POLICIES)]

    def measure(self, bench: Bench) -> None:
        """Which questions are spatial, by what rows do not hold: their words."""
        bench.step(STEP, lambda: [s.id for s in bench.data.samples if is_spatial(s)])

    def findings(self, runs: Sequence[Run]) -> Findings:
        """Means over pruners and keeps: differences between groups of questions of differences between settings."""
        ids = [_apart(run, runs, "reassigned", "preserved") for run in runs]
        all_in = [_apart(run, runs, "reassigned", None) for run in runs]
        two_way = [_apart(run, runs, "reassigned", "preserved", "two-way") for run in runs]
        kept = [_apart(run, runs, "preserved", None) for run in runs]
        gain = {g: [_effect(run, runs, "preserved", "reassigned", g) for run in runs] for g in _GROUPS}
        lost = {g: [_effect(run, runs, "preserved", None, g) for run in runs] for g in _GROUPS}
        wide = [_effect(run, runs, "stretched", "reassigned", "spatial") for run in runs]
        unknown = "not tested; readers ask"
        claims = [
            Claim("ids reassigned: spatial questions lose more than the others", unknown, told(all_in),
                  negative(all_in)),
            Claim("of that, moved ids alone (reassigned less preserved) cost spatial questions more", unknown,
                  told(ids), negative(ids)),
            Claim("so they do against others with two answers, where guessing gives as much", unknown,
                  told(two_way), negative(two_way)),
            Claim("preserving the ids gives back accuracy on spatial questions", unknown, told(gain["spatial"]),
                  positive(gain["spatial"])),
            Claim("preserving the ids gives back accuracy on the others", "hardly moves", told(gain["others"]),
                  positive(gain["others"])),
            Claim("with ids preserved spatial questions lose nothing", "GQA as a whole: less than 1 point",
                  told(lost["spatial"]), no_difference(lost["spatial"])),
            Claim("with ids preserved spatial questions lose more than the others", unknown, told(kept),
                  negative(kept)),
            Claim("stretched ids give spatial questions more than reassigned ones", "not in the paper",
                  told(wide), positive(wide)),
        ]  # fmt: skip
        more = {HOLDS: "more than", FAILS: "no more than"}.get(claims[1].verdict, "not clearly more than")
        moved = {g: [_effect(run, runs, "reassigned", "preserved", g) for run in runs] for g in _GROUPS}
        answer = (
            f"Moved ids change accuracy on spatial questions by {points(moved['spatial'])} points, {more} that on "
            f"the others ({points(moved['others'])}; {points(moved['two-way'])} on those with two answers), and "
            f"preserving them leaves a change of {points(lost['spatial'])} and {points(lost['others'])}."
        )
        notes = [
            "All numbers are means over the pruners and keeps that every run could run; groups of questions are "
            "different samples: differences are paired within a group, and groups resampled apart.",
            "Losses are bounded by what guessing gives: half of the questions with two answers, less of the others.",
            "In GQA spatial questions are those of type rel with a word for a position in the text; two answers are "
            "told by type in the pocket's scenes alone.",
            *(f"{run.model} could not run {id}: {why}" for run in runs for id, why in run.skipped.items()),
        ]
        return Findings(answer, claims, [_table(runs)], notes)

    def draw(self, runs: Sequence[Run]) -> Figure:
        """Accuracy over the share that is dropped, by policy: a panel per group; and what moved ids cost each."""
        figure, axes = panels(4, across=2)
        for ax, (group, title) in zip(axes, _GROUPS.items(), strict=False):
            for i, run in enumerate(runs):
                whole = contrast(run, {UNPRUNED: 1.0}, "vqa", members(run, group))
                effect_line(ax, [0], [whole], "unpruned", i)
                for policy in POLICIES:
                    terms = [mean(_settings(runs, policy, keep)) for keep in KEEPS]
                    effects = [contrast(run, each, "vqa", members(run, group)) for each in terms]
                    effect_line(ax, [100 * (1 - float(keep)) for keep in KEEPS], effects, policy, i)
            ax.set_title(title)
            ax.set(xticks=[0, 25, 50, 75], xlabel="visual tokens dropped (%)")
            percent_axis(ax, "right answers (%)")
        for i, run in enumerate(runs):
            for policy in POLICIES[1:]:
                effects = [_effect(run, runs, policy, "preserved", group) for group in _GROUPS]
                at = [place + 0.15 * (POLICIES.index(policy) - 2) + 0.06 * i for place in range(len(_GROUPS))]
                effect_line(axes[3], at, effects, policy, i, joined=False)
        axes[3].axhline(0, color="black", linewidth=0.8)
        axes[3].set(title="ids moved less ids preserved", ylabel="difference (points)")
        axes[3].set_xticks(range(len(_GROUPS)), ["spatial", "all others", "two answers"])
        axes[3].grid(axis="y")
        legend(figure, axes)
        return figure


def is_spatial(sample: Sample) -> bool:
    """A question of the pocket's type spatial; of GQA one of type rel that names a position."""
    return sample.type == "spatial" or (sample.type == "rel" and _POSITION.search(sample.text.lower()) is not None)


def members(run: Run, group: str) -> set[str]:
    """Ids of the questions of a group: "spatial", "others" (all but these) or "two-way" (of these, by type)."""
    types = {row["sample"]: row["type"] for row in run.rows if row["kind"] == "vqa"}
    spatial = set(run.measured.get(STEP, [id for id, type in types.items() if type == "spatial"]))
    if group == "spatial":
        return spatial & set(types)
    return {id for id, type in types.items() if id not in spatial and (group == "others" or type in TWO_WAY)}


def _settings(runs: Sequence[Run], policy: str, keep: str) -> list[Setting]:
    """Of the pruners that every run answered under all policies at this keep."""
    every = {p: [cell(p, keep, ids) for ids in POLICIES] for p in PRUNERS}
    able = [p for p, settings in every.items() if len(answered(runs, settings, "vqa")) == len(POLICIES)]
    return [cell(p, keep, policy) for p in able]


def _terms(runs: Sequence[Run], a: str, b: str | None) -> Terms:
    """Policy a less policy b, or less the unpruned model."""
    left = [s for keep in KEEPS for s in _settings(runs, a, keep)]
    right = [s for keep in KEEPS for s in _settings(runs, b, keep)] if b else [UNPRUNED]
    return total(mean(left), mean(right, -1)) if left else {}


def _effect(run: Run, runs: Sequence[Run], a: str, b: str | None, group: str) -> Effect:
    return contrast(run, _terms(runs, a, b), "vqa", members(run, group))


def _apart(run: Run, runs: Sequence[Run], a: str, b: str | None, other: str = "others") -> Effect:
    """What a gains on b on spatial questions, less what it gains on the others."""
    return between(run, _terms(runs, a, b), "vqa", members(run, "spatial"), members(run, other))


def _table(runs: Sequence[Run]) -> Table:
    """Accuracy of each type, mean over pruners, by keep and policy."""
    groups: list[dict[str, set[str]]] = []
    for run in runs:
        by_type: dict[str, set[str]] = {}
        for row in sorted(run.rows, key=lambda row: row["type"]):
            by_type.setdefault(row["type"], set()).add(row["sample"])
        groups.append({group: members(run, group) for group in ("spatial", "others")} | by_type)
    names = list(dict.fromkeys(name for group in groups for name in group))
    shown = [("unpruned", {UNPRUNED: 1.0})]
    shown += [(f"{keep}, {ids}", mean(_settings(runs, ids, keep))) for keep in KEEPS for ids in POLICIES]
    rows = [
        [label, *(
            " / ".join(percent(contrast(run, terms, "vqa", group.get(name, set())))
                       for run, group in zip(runs, groups, strict=True))
            for name in names
        )]
        for label, terms in shown if terms
    ]  # fmt: skip
    header = [
        "keep, ids",
        *(f"{name} (n = {' / '.join(str(len(g.get(name, ()))) for g in groups)})" for name in names),
    ]
    return Table(
        f"VQA, right answers in percent, mean over pruners ({' / '.join(r.model for r in runs)})", header, rows
    )
