"""Study 15: ids that count tokens against ids with axes of their own for rows and columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

from matplotlib.figure import Figure

from groundprune.evaluation.interventions import Intervention, Truths
from groundprune.evaluation.specs import Setting
from groundprune.pruners import Pruner
from groundprune.studies.parts.axis_rules import AXES, axis_reassigned, lines_shuffled
from groundprune.studies.parts.contrasts import cell
from groundprune.studies.parts.drawing import legend, panels
from groundprune.studies.parts.effects import Effect, positive
from groundprune.studies.parts.trained import (
    KEEP,
    MARGIN_NEED,
    NEED,
    OBJECTS,
    PERMUTED,
    UNPRUNED,
    TrainedStudy,
    Variants,
    kept,
    minus,
    objects_kept,
    taken,
)
from groundprune.studies.parts.trained_tables import arms_table, draw_variants, told_points
from groundprune.studies.study import Claim, Findings, Run
from groundprune.tokens.positions import Policy

ONE, THREE = "one-axis", "three-axes"
LINES = ("rows", "columns")


def _moved(axis: str) -> Intervention:
    def change(pruner: Pruner, policy: Policy, truths: Truths) -> tuple[Pruner, Policy]:
        return objects_kept(pruner, axis_reassigned(axis), truths)

    return change


class Rope(TrainedStudy):
    """One architecture, its ids counting tokens in raster order, or rows and columns on axes of their own."""

    number = 15
    name = "rope"
    title = "Ids of one axis and of three"
    question = "Do models whose ids have axes for rows and columns collapse as those do whose ids count tokens?"
    paper = "Not tested: all five of its models count tokens in raster order."
    variants: ClassVar = {
        ONE: "ids count tokens in raster order, on all three axes alike (1-D RoPE)",
        THREE: "rows and columns have axes of their own (M-RoPE)",
    }
    interventions: ClassVar[Mapping[str, Intervention]] = {
        OBJECTS: objects_kept,
        **{f"{which}-shuffled": lines_shuffled(which) for which in LINES},
        **{f"{axis}-reassigned": _moved(axis) for axis in AXES},
    }

    def settings(self, quick: bool) -> list[Setting]:
        """Ids reassigned on one axis alone, and whole rows or columns in another's place."""
        lines = [_shuffled(which) for which in LINES]
        return [*super().settings(quick), kept("reassigned-image"), *lines, *map(_axis, AXES)]

    def findings(self, runs: Sequence[Run]) -> Findings:
        """The need of both, over seeds; and what each axis carries."""
        found = Variants(runs)
        need = {name: found.told_of(name, NEED) for name in self.variants}
        less = found.less(ONE, THREE, NEED)
        alone = {axis: found.told_of(THREE, taken(_axis(axis))) for axis in AXES}
        rows_more = found.told_of(THREE, minus(taken(_axis("rows")), taken(_axis("columns"))))
        claims = [
            *(Claim(f"{name}: REC needs preserved ids", "yes, of ids that count tokens",
                    f"{told_points(need[name])} of what preserved ids give", positive([need[name]], 0))
              for name in self.variants),
            Claim("with three axes a model needs preserved ids less", "not tested", told_points(less),
                  positive([less], MARGIN_NEED)),
            *(Claim(f"three axes: ids reassigned on {_NAMES[axis]} alone break grounding", "not tested",
                    f"{told_points(alone[axis])} of what preserved ids give", _breaks(axis, alone[axis]))
              for axis in AXES),
            Claim("three axes: rows carry more of it than columns", "not tested", told_points(rows_more),
                  positive([rows_more], MARGIN_NEED)),
        ]  # fmt: skip
        notes = [
            "Both are one stock Qwen2-VL with the same tower; half of the tokens dropped, none of an object's. On "
            "one axis alone: the image's ids there are consecutive, as reassigned-image makes them. Shuffled rows: "
            "whole rows of the grid take each other's ids, nothing dropped. Intervals are Student's, over trainings.",
            *found.note(list(self.variants)),
        ]
        table = arms_table(found, list(self.variants), self.kinds, _arms(), "ids, asked")
        return Findings(_answer(need, alone), claims, [table], notes)

    def draw(self, runs: Sequence[Run]) -> Figure:
        """REC by policy, and by what of the ids moved."""
        found, names = Variants(runs), list(self.variants)
        figure, axes = panels(2, across=2, height=2.8)
        arms = {"unpruned": UNPRUNED, "preserved": kept("preserved"), "reassigned": kept("reassigned")}
        draw_variants(axes[0], found, names, "rec", arms)
        draw_variants(axes[1], found, [THREE], "rec", {_NAMES[axis]: _axis(axis) for axis in AXES})
        axes[1].set_title("REC, one axis reassigned")
        legend(figure, axes)
        return figure


_NAMES = {"time": "the time axis", "rows": "the axis of rows", "columns": "the axis of columns"}


def _axis(axis: str) -> Setting:
    return replace(cell("random", KEEP), intervention=f"{axis}-reassigned")


def _shuffled(which: str) -> Setting:
    return replace(UNPRUNED, intervention=f"{which}-shuffled")


def _breaks(axis: str, effect: Effect) -> str:
    """Of the time axis, on which all of an image's tokens stand at one place, it is expected that nothing breaks."""
    return positive([effect], MARGIN_NEED if axis == "time" else 0)


def _arms() -> dict[str, Setting]:
    return {
        "unpruned": UNPRUNED, "preserved": kept("preserved"), "reassigned": kept("reassigned"),
        "image reassigned": kept("reassigned-image"), **{f"{_NAMES[axis]} reassigned": _axis(axis) for axis in AXES},
        **{f"{which} shuffled": _shuffled(which) for which in LINES},
        "permuted": PERMUTED,
    }  # fmt: skip


def _answer(need: Mapping[str, Effect], alone: Mapping[str, Effect]) -> str:
    if not all(effect.n for effect in need.values()):
        return "Nothing can be said: a training has not learnt to ground."
    parts = ", ".join(f"{_NAMES[axis]} {100 * effect.value:.0f}%" for axis, effect in alone.items() if effect.n)
    return (
        f"Of the REC that preserved ids give, reassigned ones take {100 * need[ONE].value:.0f}% where ids count "
        f"tokens and {100 * need[THREE].value:.0f}% where rows and columns have axes of their own; there ids "
        f"reassigned on one axis alone take, by axis: {parts}."
    )
