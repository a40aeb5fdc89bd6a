"""Study 4: every policy with every selection; how much of the loss is the ids', how much the target's coverage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from matplotlib.figure import Figure

from groundprune.evaluation.specs import Setting, unique
from groundprune.studies.parts.covering import look
from groundprune.studies.parts.cross_cells import (
    KEEPS,
    POLICIES,
    SCORED,
    SELECTIONS,
    STEP,
    UNPRUNED,
    WHOLE,
    Cells,
    texts,
    whole,
)
from groundprune.studies.parts.cross_tables import tables
from groundprune.studies.parts.crossing import Factors, Split
from groundprune.studies.parts.drawing import legend, line, panels, percent_axis
from groundprune.studies.parts.effects import Effect, negative, positive, told
from groundprune.studies.parts.forcing import forced
from groundprune.studies.parts.logistic import Estimate
from groundprune.studies.study import FAILS, HOLDS, UNTOLD, Bench, Claim, Findings, Run, Study

LEVEL = 0.05  # of the test of "no interaction"
SLIGHT = 0.01  # an interaction of at most this share of the deviance is none
HEADLINE = "cls-visual"
PARTS = (  # of `Split`, name and colour
    ("positions", "ids moved", "#D55E00"), ("coverage", "target not covered", "#56B4E9"),
    ("rest", "the rest", "#999999"),
)  # fmt: skip


class Cross(Study):
    """{preserved, reassigned, stretched, reassigned-image} x {CLS, text, coverage, random, grid}."""

    number = 4
    name = "cross"
    title = "Ids or coverage: every policy with every selection"
    question = "How much of the loss is the ids', how much the target's coverage, and do the two interact?"
    paper = (
        "The loss comes from ids that are reassigned (abstract). Six selections are run under both policies; how "
        "much of the loss is the selection's is not separated."
    )
    samples = (300, 60)
    kinds = ("rec",)
    interventions: ClassVar = {WHOLE: forced(keep="target")}

    def settings(self, quick: bool) -> list[Setting]:
        """The unpruned model, all cells, and a selection that keeps all of the target."""
        found = [UNPRUNED]
        for keep in KEEPS[: 1 if quick else None]:
            for policy in POLICIES:
                pruners = [text for selection in SELECTIONS for text in texts(selection, quick)]
                found += [Setting.of(text, keep, positions=policy) for text in pruners] + [whole(keep, policy)]
            found += [whole(keep, policy, selection) for policy in POLICIES[:2] for selection in SCORED]
        return unique(found)

    def measure(self, bench: Bench) -> None:
        """Which tokens are the target's."""
        bench.step(STEP, lambda: look(bench))

    def findings(self, runs: Sequence[Run]) -> Findings:
        """Claims at the first keep; tables of all."""
        every = {keep: [Cells.of(run, keep) for run in runs] for keep in KEEPS}
        cells = every[KEEPS[0]]
        found, parts = [c.factors for c in cells], [c.split(HEADLINE) for c in cells]
        names = [run.model for run in runs]
        lead = _effects(names, [s and s.lead for s in parts])
        gain = _effects(names, [s and s.coverage for s in parts])
        blind = _effects(names, [s and s.coverage for s in (c.split("random") for c in cells)])
        stretch = _effects(names, [c.mean_gain("stretched") for c in cells])
        here = f"{HEADLINE} at keep {KEEPS[0]}"
        claims = [
            Claim(
                "moved ids cost more than what is not covered of the target", "the ids are the cause",
                f"{here}, ids less coverage: {told(lead)}", positive(lead),
            ),
            Claim(
                "what is not covered of the target costs too", "not separated",
                f"{here}: {told(gain)}", positive(gain),
            ),
            Claim(
                "of random pruning it does", "not separated",
                f"random at keep {KEEPS[0]}: {told(blind)}", positive(blind),
            ),
            Claim(
                "ids and selection interact on the logit scale", "not tested",
                " / ".join(map(_interaction, found)), _meets(found),
            ),
            Claim(
                "stretched ids are worse than preserved ones", "not tested; a rival remedy (Nuwa)",
                f"mean over the selections: {told(stretch)}", negative(stretch),
            ),
        ]  # fmt: skip
        told_all = [table for of_keep in every.values() for table in tables(of_keep)]
        notes = [
            "Points of right answers split over ids and coverage by Shapley values, against the same selection made "
            "to keep all of the target (of coverage and spatial, which rank no tokens, against random pruning made "
            "to); the rest is lost with ids preserved and the target whole.",
            "Deviance is that of cells; a ridge of 0.1 on all contrasts keeps cells without a right answer finite. "
            "Intervals resample whole samples. Shares of deviance cannot fall below 0: the p-value, the larger "
            "of the bootstrap's and the likelihood ratio's, judges them.",
        ]
        notes += [f"{run.model} could not run {id}: {why}" for run in runs for id, why in run.skipped.items()]
        return Findings(_answer(here, found, parts), claims, told_all, notes)

    def draw(self, runs: Sequence[Run]) -> Figure:
        """Accuracy by selection and policy at each keep, and the split of the loss."""
        keeps = [k for k in KEEPS if any(run.answers(whole(k, POLICIES[0]), "rec") for run in runs)] or KEEPS[:1]
        figure, axes = panels(1 + len(keeps))
        names = [*SELECTIONS, "target\nwhole"]
        for ax, keep in zip(axes, keeps, strict=False):
            for i, run in enumerate(runs):
                for policy in POLICIES:
                    settings = [Setting.of(s, keep, positions=policy) for s in SELECTIONS] + [whole(keep, policy)]
                    shares = [run.share(setting, "rec") for setting in settings]
                    line(ax, [at + 0.12 * i for at in range(len(names))], shares, policy, i)
            ax.set_xticks(range(len(names)), [name.replace("-", "-\n") for name in names])
            ax.set_title(f"keep {keep}")
            percent_axis(ax, "REC right (%)")
        for i, run in enumerate(runs):
            cells, width = Cells.of(run, KEEPS[0]), 0.8 / len(runs)
            for at, selection in enumerate(SELECTIONS):
                found, under = cells.split(selection), 0.0
                for name, label, colour in PARTS if found else ():
                    value = 100 * max(0.0, getattr(found, name).value)
                    axes[-1].bar(
                        at + (i - (len(runs) - 1) / 2) * width, value, width * 0.92, under, color=colour,
                        label=label if i == at == 0 else None,
                    )  # fmt: skip
                    under += value
        axes[-1].set_xticks(range(len(SELECTIONS)), [name.replace("-", "-\n") for name in SELECTIONS])
        axes[-1].set_ylabel("REC points lost, ids reassigned")
        axes[-1].set_title(f"what is lost, keep {KEEPS[0]}")
        for ax in axes:
            ax.tick_params(axis="x", labelsize=7)
        legend(figure, axes)
        return figure


def _effects(names: Sequence[str], found: Sequence[Estimate | None]) -> list[Effect]:
    return [
        Effect(name, e.n, e.value, e.low, e.high) if e else Effect(name, 0, 0.0, -1.0, 1.0)
        for name, e in zip(names, found, strict=True)
    ]


def _meets(found: Sequence[Factors | None]) -> str:
    if not found or None in found:
        return UNTOLD
    if all(f and f.chance < LEVEL and f.interaction.value > SLIGHT for f in found):
        return HOLDS
    return FAILS if all(f and f.interaction.high <= SLIGHT for f in found) else UNTOLD


def _interaction(found: Factors | None) -> str:
    if found is None:
        return "not measured"
    return (
        f"{found.interaction.told(100, sign=False)}% of the deviance, p {_p(found.chance)}; preserved beats "
        f"reassigned by {found.contrast.told()} log-odds more in selections that look than in blind ones"
    )


def _p(chance: float) -> str:
    return f"= {chance:.3f}" if chance > 0.001 else "< 0.001"


def _answer(here: str, found: Sequence[Factors | None], parts: Sequence[Split | None]) -> str:
    known, factors = [s for s in parts if s], [f for f in found if f]
    if not known or not factors:
        return "Cells of the design were not answered: what ids and coverage cost cannot be told here."
    ids, covered, rest = (
        " / ".join(f"{100 * getattr(s, name).value:.1f}" for s in known) for name in ("positions", "coverage", "rest")
    )
    meet = {HOLDS: "they interact", FAILS: "they do not interact"}.get(_meets(found), "no interaction is sure")
    parts_told = (
        " / ".join(f"{100 * getattr(f, name).value:.0f}%" for f in factors)
        for name in ("policy", "selection", "interaction")
    )
    policy, selection, both = parts_told
    return (
        f"Of the REC points that {here} loses with reassigned ids, {ids} are the ids', {covered} the target's "
        f"coverage and {rest} the rest's; over all cells policy explains {policy} of the deviance, selection "
        f"{selection}, the two together {both}: {meet}."
    )
