"""Study 14: models that were trained with pruned inputs, and what training can buy back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from matplotlib.figure import Figure

from groundprune.evaluation.specs import Setting
from groundprune.studies.parts.contrasts import cell
from groundprune.studies.parts.drawing import legend, panels
from groundprune.studies.parts.effects import Effect, positive
from groundprune.studies.parts.trained import (
    KEEP,
    MARGIN_NEED,
    UNPRUNED,
    TrainedStudy,
    Variants,
    kept,
    minus,
    right,
)
from groundprune.studies.parts.trained_tables import arms_table, draw_variants, told_points
from groundprune.studies.study import Claim, Findings, Run

WHOLE, PRESERVED, REASSIGNED = "plain", "with-preserved", "with-reassigned"


class TrainedWith(TrainedStudy):
    """The same model trained on whole images, and with half of the tokens of every other step dropped."""

    number = 14
    name = "trained-with"
    title = "Trained with pruning"
    question = "Does a model that was trained with pruned inputs still need preserved ids?"
    paper = "Not tested: GAP needs no training, and nothing is said of what training could do."
    variants: ClassVar = {
        WHOLE: "trained on whole images",
        PRESERVED: "half of the tokens dropped at random in every other step, ids preserved",
        REASSIGNED: "half of the tokens dropped at random in every other step, ids reassigned",
    }

    def settings(self, quick: bool) -> list[Setting]:
        """As in training, tokens dropped at random, beside the settings of all."""
        return [*super().settings(quick), *(_random(policy) for policy in ("preserved", "reassigned"))]

    def findings(self, runs: Sequence[Run]) -> Findings:
        """How much each training gives back, over seeds."""
        found = Variants(runs)
        still = found.told_of(PRESERVED, _gap)
        own = found.told_of(REASSIGNED, _gap)
        bought = found.less(REASSIGNED, WHOLE, right(kept("reassigned")))
        lifted = found.less(PRESERVED, WHOLE, right(kept("preserved")))
        best = found.less(PRESERVED, REASSIGNED, right(kept("preserved")), right(kept("reassigned")))
        whole = found.less(REASSIGNED, WHOLE, right(UNPRUNED))
        claims = [
            Claim("trained with pruning and preserved ids, it still collapses when renumbered", "not tested",
                  f"preserved less reassigned: {told_points(still)}", positive([still], MARGIN_NEED)),
            Claim("trained with pruning and reassigned ids, it still does better with preserved ones", "not tested",
                  f"preserved less reassigned: {told_points(own)}", positive([own], MARGIN_NEED)),
            Claim("training with reassigned ids buys back REC under reassigned ids", "not tested",
                  told_points(bought), positive([bought], MARGIN_NEED)),
            Claim("training with preserved ids raises REC under preserved ids", "not tested",
                  told_points(lifted), positive([lifted])),
            Claim("each as it was trained: preserving is better than renumbering", "not tested", told_points(best),
                  positive([best], 0)),
            Claim("training with reassigned ids costs unpruned REC", "not tested", told_points(whole),
                  positive([_turned(whole)])),
        ]  # fmt: skip
        notes = [
            "Half of the tokens dropped, none of an object's, where nothing else is said. Equal budgets: as many "
            "steps, so that a model trained with pruning sees whole images in half of them. Intervals are Student's, "
            "over trainings, paired by seed.",
            *found.note(list(self.variants)),
        ]
        table = arms_table(found, list(self.variants), self.kinds, _arms(), "trained, asked")
        return Findings(_answer(found, still, best, bought), claims, [table], notes)

    def draw(self, runs: Sequence[Run]) -> Figure:
        """REC and VQA of the three trainings."""
        figure, axes = panels(2, across=2, height=3.0)
        arms = {"unpruned": UNPRUNED, "preserved": kept("preserved"), "reassigned": kept("reassigned")}
        draw_variants(axes[0], Variants(runs), list(self.variants), "rec", arms)
        arms = {"unpruned": UNPRUNED, "preserved": _random("preserved"), "reassigned": _random("reassigned")}
        draw_variants(axes[1], Variants(runs), list(self.variants), "vqa", arms)
        legend(figure, axes)
        return figure


def _random(policy: str) -> Setting:
    return cell("random", KEEP, policy)


_gap = minus(right(kept("preserved")), right(kept("reassigned")))


def _turned(effect: Effect) -> Effect:
    return Effect(effect.model, effect.n, -effect.value, -effect.high, -effect.low)


def _arms() -> dict[str, Setting]:
    return {
        "unpruned": UNPRUNED, "objects kept, preserved": kept("preserved"),
        "objects kept, reassigned": kept("reassigned"), "random, preserved": _random("preserved"),
        "random, reassigned": _random("reassigned"), "divprune, preserved": cell("divprune", KEEP),
        "divprune, reassigned": cell("divprune", KEEP, "reassigned"),
    }  # fmt: skip


def _answer(found: Variants, still: Effect, best: Effect, bought: Effect) -> str:
    if still.n and not bought.n:
        low = found.mean(REASSIGNED, right(UNPRUNED))
        return (
            f"Trained with pruned inputs and preserved ids, a model still loses {100 * still.value:.0f} points of "
            "REC when renumbered; trained with renumbered ids it has not learnt to ground in as many steps (unpruned "
            f"REC {100 * low.value:.0f}%), so what that could buy back cannot be told."
        )
    if not (best.n and bought.n):
        return "Nothing can be said: a training has not learnt to ground."
    return (
        f"Training with reassigned ids buys back {100 * bought.value:+.1f} points of REC under reassigned ids; each "
        f"as it was trained, preserved ids are {100 * best.value:+.1f} points from them."
    )
