"""Study 6: what is lost although ids are preserved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from matplotlib.figure import Figure

from groundprune.evaluation.specs import Setting
from groundprune.studies.parts.covering import look
from groundprune.studies.parts.drawing import legend, panels, percent_axis
from groundprune.studies.parts.effects import (
    MARGIN,
    Effect,
    differences,
    negative,
    no_difference,
    positive,
    told,
)
from groundprune.studies.parts.forcing import forced
from groundprune.studies.parts.residual_drawing import draw_given_back, look_of_pruner
from groundprune.studies.parts.residual_rows import (
    BINS,
    KEEPS,
    PRUNERS,
    QUICK_PRUNERS,
    STEP,
    UNPRUNED,
    Answers,
    changed,
    plain,
)
from groundprune.studies.parts.residual_tables import by_share, given_back, regressions
from groundprune.studies.study import FAILS, HOLDS, Bench, Claim, Findings, Run, Study

HEADLINE = "cls-visual", KEEPS[0]
FEW = 5  # a bin of fewer answers is not drawn
TARGET, BORDER, OUTLINE = "target-kept", "border-kept", "outline-kept"
OTHERS, NO_CENTRE = "distractors-kept", "centre-dropped"
SHORT = {
    TARGET: "target kept", BORDER: "border kept", OUTLINE: "outline kept", OTHERS: "others kept",
    NO_CENTRE: "centre dropped",
}  # fmt: skip


class Residual(Study):
    """Which tokens the loss under preserved ids goes with, and what comes back when they are kept."""

    number = 6
    name = "residual"
    title = "What is lost although ids are preserved"
    question = "What is the loss that preserved ids leave: does it go with the content of the pruned tokens?"
    paper = (
        "With ids preserved LLaVA-v1.5 keeps 51.42 of 56.14 on RefCOCO val with half of the tokens pruned (as "
        "reported); where the rest goes is not said."
    )
    samples = (300, 60)
    kinds = ("rec",)
    interventions: ClassVar = {
        TARGET: forced(keep="target"), BORDER: forced(keep="border"), OUTLINE: forced(keep="outline"),
        OTHERS: forced(keep="distractors"),        NO_CENTRE: forced(drop="centre"),
    }  # fmt: skip

    def settings(self, quick: bool) -> list[Setting]:
        """Unpruned; and each pruner, as it is and with each intervention, equally many tokens kept."""
        found = [UNPRUNED]
        for pruner in QUICK_PRUNERS if quick else PRUNERS:
            for keep in KEEPS:
                found += [plain(pruner, keep), *(changed(pruner, keep, name) for name in self.interventions)]
        return found

    def measure(self, bench: Bench) -> None:
        """Which tokens show the target and the distractors, and the score on them."""
        bench.step(STEP, lambda: look(bench, QUICK_PRUNERS if bench.quick else PRUNERS))

    def findings(self, runs: Sequence[Run]) -> Findings:
        """Claims of `HEADLINE`; tables of all."""
        here, setting = f"{HEADLINE[0]} at keep {HEADLINE[1]}", plain(*HEADLINE)
        loss = differences(runs, setting, UNPRUNED, "rec")
        back = {name: differences(runs, changed(*HEADLINE, name), setting, "rec") for name in self.interventions}
        left = differences(runs, changed(*HEADLINE, TARGET), UNPRUNED, "rec")
        covered_random = changed("random", HEADLINE[1], TARGET)
        of_random = differences(runs, covered_random, plain("random", HEADLINE[1]), "rec")
        rest = differences(runs, covered_random, changed(*HEADLINE, TARGET), "rec")
        border = differences(runs, changed(*HEADLINE, BORDER), changed(*HEADLINE, TARGET), "rec")
        slopes = [Answers.of(run, *HEADLINE).alone("target") for run in runs]
        steep = [
            Effect(run.model, s.slope.n, s.slope.value, s.slope.low, s.slope.high)
            for run, s in zip(runs, slopes, strict=True)
        ]
        told_steep = " / ".join(s.slope.told() for s in slopes)
        claims = [
            Claim(
                "preserved ids leave a loss", "4.72 of 56.14 points", f"{here}: {told(loss)}", negative(loss)
            ),
            Claim(
                "errors go with how much of the target is kept", "not tested",
                f"{here}, log-odds per standard deviation of that share: {told_steep}", positive(steep, 0),
            ),
            Claim(
                "keeping all of the target's tokens gives points back", "not tested",
                told(back[TARGET]), positive(back[TARGET]),
            ),
            Claim("with the target whole nothing is lost", "not tested", told(left), no_difference(left)),
            Claim(
                "of random pruning it gives points back", "not tested",
                told(of_random), positive(of_random),
            ),
            Claim(
                "beside a whole target a random rest loses less than the pruner's choice", "not tested",
                told(rest), positive(rest),
            ),
            Claim(
                "its border alone does as much", "not tested", f"against all of it: {told(border)}",
                no_difference(border),
            ),
            Claim(
                "keeping the outline around it gives points back", "not tested",
                told(back[OUTLINE]), positive(back[OUTLINE]),
            ),
            Claim(
                "without its centre more is lost", "not tested", told(back[NO_CENTRE]), negative(back[NO_CENTRE])
            ),
            Claim(
                "keeping the distractors gives points back", "not tested", told(back[OTHERS]), positive(back[OTHERS])
            ),
        ]  # fmt: skip
        tables = [given_back(runs, SHORT), by_share(runs), regressions(runs)]
        notes = [
            "The target's tokens are those whose patch its box touches (more than 1% of the patch); its border are "
            "those with a side to the outside (of small targets all), the outline is the ring of tokens around it.",
            "As many tokens stay as without the intervention: what is forced in pushes the lowest scores out. Scores "
            "per token are over the image's mean, less the row's lowest score.",
            f"No difference: within {100 * MARGIN:g} point.",
        ]
        notes += [f"{run.model} could not run {id}: {why}" for run in runs for id, why in run.skipped.items()]
        return Findings(_answer(here, loss, back, of_random, rest), claims, tables, notes)

    def draw(self, runs: Sequence[Run]) -> Figure:
        """Accuracy over the share of the target that is kept; points given back by each intervention."""
        figure, axes = panels(3)
        for i, run in enumerate(runs):
            for pruner in PRUNERS:
                bins = [b for b in Answers.of(run, pruner, KEEPS[0]).bins() if b[1] >= FEW]
                right, label = [100 * share for _, _, share, _ in bins], pruner if i == 0 and bins else None
                axes[0].plot([at for at, *_ in bins], right, label=label, **look_of_pruner(pruner, i))
        axes[0].set_xticks(range(len(BINS)), BINS)
        axes[0].set_xlim(-0.3, len(BINS) - 0.7)
        axes[0].set_xlabel("target's tokens kept (%)")
        axes[0].set_title(f"keep {KEEPS[0]}")
        percent_axis(axes[0], "REC right (%)")
        for ax, keep in zip(axes[1:], KEEPS, strict=True):
            draw_given_back(ax, runs, keep, SHORT)
        legend(figure, axes)
        return figure


def _answer(
    here: str, loss: Sequence[Effect], back: Mapping[str, Sequence[Effect]], of_random: Sequence[Effect],
    rest: Sequence[Effect],
) -> str:  # fmt: skip
    if not any(effect.n for effect in loss):
        return "Nothing was answered: what is lost although ids are preserved cannot be told here."

    def points(effects: Sequence[Effect]) -> str:
        return " / ".join(f"{100 * e.value:+.1f}" if e.n else "-" for e in effects)

    why = {
        HOLDS: "what it keeps of the rest costs the points", FAILS: "what it keeps of the rest does not cost them"
    }.get(positive(rest), "whether what it keeps of the rest costs them cannot be told here")  # fmt: skip
    return (
        f"{here} changes REC by {points(loss)} points with ids preserved, and keeping all of the target gives back "
        f"{points(back[TARGET])} of them (of random pruning's {points(of_random)}): {why}."
    )
