"""Study 12: fixed or varied prefixes in training, and what a common shift of ids then costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from matplotlib.figure import Figure

from groundprune.evaluation.specs import Setting
from groundprune.studies.parts.drawing import legend, panels
from groundprune.studies.parts.effects import Effect, no_difference, positive
from groundprune.studies.parts.trained import (
    MARGIN_NEED,
    PERMUTED,
    UNPRUNED,
    Measure,
    TrainedStudy,
    Variants,
    kept,
    minus,
    part_of_unpruned,
    right,
)
from groundprune.studies.parts.trained_tables import arms_table, draw_variants, told_points
from groundprune.studies.study import Claim, Findings, Run

VARIED, FIXED = "plain", "fixed"
SHIFTS = (1, 8, 32)


class Offset(TrainedStudy):
    """The same model trained behind one prefix, and behind many."""

    number = 12
    name = "offset"
    title = "The lost layout, and the changed offset"
    question = "How much of the collapse is the lost layout of the ids, and how much that they start elsewhere?"
    paper = (
        "Both the order and the values of ids matter (as reported): permuted ids and shifted ids each break "
        "grounding, with nothing dropped."
    )
    variants: ClassVar = {
        VARIED: "words of many lengths before the image",
        FIXED: "always the same words before the image",
    }

    def settings(self, quick: bool) -> list[Setting]:
        """All tokens there, ids shifted or permuted; half of them dropped, the image's ids alone moved."""
        return [*super().settings(quick), kept("reassigned-image"), *map(_shifted, SHIFTS)]

    def findings(self, runs: Sequence[Run]) -> Findings:
        """What a shift, another order, and reassigned ids cost, by kind of training."""
        found = Variants(runs)
        shift = {name: found.told_of(name, _lost(_shifted(8))) for name in self.variants}
        layout = {name: found.told_of(name, _of_the_loss(kept("reassigned-image"))) for name in self.variants}
        order = {name: found.told_of(name, _lost(PERMUTED)) for name in self.variants}
        one = {name: found.told_of(name, _lost(_shifted(1))) for name in self.variants}
        claims = [
            Claim("trained behind one prefix, ids shifted by 8 cost REC", "shifted ids break grounding",
                  told_points(shift[FIXED]), positive([shift[FIXED]], _MARGIN)),
            Claim("trained behind one prefix, ids shifted by 1 cost REC", "shifted ids break grounding",
                  told_points(one[FIXED]), positive([one[FIXED]], _MARGIN)),
            Claim("trained behind many, ids shifted by 8 cost nothing", "shifted ids break grounding",
                  told_points(shift[VARIED]), no_difference([shift[VARIED]], _MARGIN)),
            *(Claim(f"{name}: ids in another order break grounding", "permuted ids break grounding",
                    told_points(order[name]), positive([order[name]], 0)) for name in self.variants),
            *(Claim(f"{name}: of what reassigned ids take, the image's layout alone takes nine tenths", "not tested",
                    f"less nine tenths: {told_points(layout[name])}", positive([layout[name]], 0))
              for name in self.variants),
        ]  # fmt: skip
        notes = [
            "Losses are shares of the unpruned accuracy; the image's layout alone: its ids are consecutive, those of "
            "the text stay. Intervals are Student's, over trainings. No difference: within "
            f"{100 * _MARGIN:g} points.",
            *found.note(list(self.variants)),
        ]
        table = arms_table(found, list(self.variants), self.kinds, _arms(), "trained, asked")
        return Findings(_answer(one, shift, order), claims, [table], notes)

    def draw(self, runs: Sequence[Run]) -> Figure:
        """REC and VQA of both trainings."""
        figure, axes = panels(2, across=2, height=3.4)
        arms = {
            "unpruned": UNPRUNED, **{f"shifted by {by}": _shifted(by) for by in SHIFTS}, "permuted": PERMUTED,
            "preserved": kept("preserved"), "reassigned-image": kept("reassigned-image"),
            "reassigned": kept("reassigned"),
        }  # fmt: skip
        for ax, kind in zip(axes, self.kinds, strict=True):
            draw_variants(ax, Variants(runs), list(self.variants), kind, arms)
        legend(figure, axes)
        return figure


_MARGIN = MARGIN_NEED / 2


def _shifted(by: int) -> Setting:
    return Setting.of(positions=f"shifted:{by}")


def _lost(setting: Setting) -> Measure:
    """How much of the unpruned REC a setting takes."""
    return minus(part_of_unpruned(UNPRUNED), part_of_unpruned(setting))


def _of_the_loss(setting: Setting) -> Measure:
    """What a setting takes, less nine tenths of what reassigned ids take; both from preserved ids."""
    top = right(kept("preserved"))
    return minus(minus(top, right(setting)), minus(top, right(kept("reassigned"))), 0.9)


def _arms() -> dict[str, Setting]:
    return {
        "unpruned": UNPRUNED, **{f"shifted by {by}": _shifted(by) for by in SHIFTS},
        "permuted": PERMUTED, "half dropped, preserved": kept("preserved"),
        "image reassigned": kept("reassigned-image"), "all reassigned": kept("reassigned"),
    }  # fmt: skip


def _answer(one: dict[str, Effect], row: dict[str, Effect], order: dict[str, Effect]) -> str:
    if not all(effect.n for costs in (one, row, order) for effect in costs.values()):
        return "Nothing can be said: a training has not learnt to ground."
    told = [
        f"{how}, a shift of all ids by 1 takes {_points(one[name])} of the unpruned REC, by 8 (a row of the "
        f"grid) {_points(row[name])}, another order {_points(order[name])}"
        for name, how in ((FIXED, "Trained behind one prefix"), (VARIED, "trained behind many"))
    ]
    return f"{'; '.join(told)}."


def _points(effect: Effect) -> str:
    return f"{100 * effect.value:.0f}%"
