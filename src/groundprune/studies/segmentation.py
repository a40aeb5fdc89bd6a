"""Study 13: outlines instead of boxes; do ids decide at the level of pixels too?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from matplotlib.figure import Figure

from groundprune.data import DataSet
from groundprune.data.sources import as_task
from groundprune.evaluation.specs import Setting
from groundprune.studies.parts.contrasts import cell
from groundprune.studies.parts.drawing import legend, panels
from groundprune.studies.parts.effects import negative, positive
from groundprune.studies.parts.trained import (
    KEEP,
    LEARNT,
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
from groundprune.studies.parts.trained_tables import draw_variants, percent, told_points
from groundprune.studies.study import Claim, Findings, Run, Table

OUTLINES = "outlines"
HALF, MOST = 0.5, 0.9  # of the unpruned accuracy: less than half is a collapse, more than nine tenths a recovery


class Segmentation(TrainedStudy):
    """Referring segmentation by polygons."""

    number = 13
    name = "segmentation"
    title = "Outlines instead of boxes"
    question = "Does referring segmentation collapse when ids are reassigned, and do preserved ids bring it back?"
    paper = "Not tested: boxes only. Its readers ask for referring-expression segmentation."
    kinds = ("seg",)
    columns: ClassVar = ("pixels",)
    variants: ClassVar = {OUTLINES: "answers an expression with a polygon of 8 to 12 points"}

    def asked(self, data: DataSet) -> DataSet:
        """Every expression, for an outline."""
        return as_task(super().asked(data), "seg")

    def findings(self, runs: Sequence[Run]) -> Findings:
        """mIoU, oIoU and Pr@0.5 over seeds, by policy."""
        found = Variants(runs, _pr(UNPRUNED))
        collapse = found.told_of(OUTLINES, _beside(kept("reassigned"), HALF))
        back = found.told_of(OUTLINES, _beside(kept("preserved"), MOST))
        gain = found.told_of(OUTLINES, minus(_mean_iou(kept("preserved")), _mean_iou(kept("reassigned"))))
        whole = found.told_of(OUTLINES, minus(_overall_iou(kept("preserved")), _overall_iou(kept("reassigned"))))
        order = found.told_of(OUTLINES, _beside(PERMUTED, HALF))
        chosen = minus(_pr(cell("divprune", KEEP)), _pr(cell("divprune", KEEP, "reassigned")))
        pruned = found.told_of(OUTLINES, chosen)
        claims = [
            Claim("half dropped, ids reassigned: outlines collapse (less than half of unpruned Pr@0.5 is left)",
                  "asked, not tested", f"against half of unpruned: {told_points(collapse)}", negative([collapse], 0)),
            Claim("half dropped, ids preserved: nine tenths of unpruned Pr@0.5 are left", "asked, not tested",
                  f"against nine tenths of unpruned: {told_points(back)}", positive([back], 0)),
            Claim("preserved ids give mIoU back", "asked, not tested", told_points(gain), positive([gain])),
            Claim("preserved ids give oIoU back", "asked, not tested", told_points(whole), positive([whole])),
            Claim("with a pruner's own choice (divprune) they do so too, Pr@0.5", "asked, not tested",
                  told_points(pruned), positive([pruned])),
            Claim("nothing dropped, ids permuted: outlines collapse", "asked, not tested",
                  f"against half of unpruned: {told_points(order)}", negative([order], 0)),
        ]  # fmt: skip
        notes = [
            "mIoU is the mean over expressions, oIoU all shared pixels over all pixels of either mask, Pr@0.5 the "
            "share of masks that overlap by half. The truth is the drawn shape's pixels; answers are filled as COCO "
            "fills polygons. Half of the tokens dropped, none of an object's, where no pruner is named. Intervals "
            "are Student's, over trainings.",
            *([] if found.learnt(OUTLINES) or not found.runs(OUTLINES) else
              [f"Unpruned Pr@0.5 stays under {100 * LEARNT:g}% in a training: nothing is concluded"]),
        ]  # fmt: skip
        return Findings(_answer(found), claims, [_table(found)], notes)

    def draw(self, runs: Sequence[Run]) -> Figure:
        """Pr@0.5 of every training, and how much of the masks overlaps."""
        found = Variants(runs, _pr(UNPRUNED))
        figure, axes = panels(2, across=2, height=2.4)
        arms = {"unpruned": UNPRUNED, "preserved": kept("preserved"), "reassigned": kept("reassigned")}
        draw_variants(axes[0], found, [OUTLINES], "seg", arms)
        axes[0].set_title("Pr@0.5, objects kept")
        arms = {
            "unpruned": UNPRUNED,
            "preserved": cell("divprune", KEEP),
            "reassigned": cell("divprune", KEEP, "reassigned"),
        }
        draw_variants(axes[1], found, [OUTLINES], "seg", arms)
        axes[1].set_title("Pr@0.5, divprune")
        legend(figure, axes)
        return figure


def _pr(setting: Setting) -> Measure:
    return right(setting, "seg")


def _mean_iou(setting: Setting) -> Measure:
    def measure(run: Run) -> float | None:
        rows = run.answers(setting, "seg")
        return sum(row["iou"] for row in rows) / len(rows) if rows else None

    return measure


def _overall_iou(setting: Setting) -> Measure:
    def measure(run: Run) -> float | None:
        rows = run.answers(setting, "seg")
        either = sum(row["pixels"]["either"] for row in rows)
        return sum(row["pixels"]["both"] for row in rows) / either if either else None

    return measure


def _beside(setting: Setting, part: float) -> Measure:
    """What is left of the unpruned Pr@0.5, less a part of it."""
    return minus(part_of_unpruned(setting, kind="seg"), part_of_unpruned(UNPRUNED, kind="seg"), part)


def _table(found: Variants) -> Table:
    arms = {
        "unpruned": UNPRUNED, "objects kept, preserved": kept("preserved"),
        "objects kept, reassigned": kept("reassigned"), "divprune, preserved": cell("divprune", KEEP),
        "divprune, reassigned": cell("divprune", KEEP, "reassigned"), "permuted": PERMUTED,
    }  # fmt: skip
    rows = []
    for name, setting in arms.items():
        measures = [_mean_iou(setting), _overall_iou(setting), _pr(setting)]
        rows.append([name, *(percent(found.mean(OUTLINES, measure)) for measure in measures)])
    return Table("Percent, mean over trainings", ["setting", "mIoU", "oIoU", "Pr@0.5"], rows)


def _answer(found: Variants) -> str:
    if not found.learnt(OUTLINES):
        return "Nothing can be said: the model has not learnt to outline what is asked for."
    whole, high, low = (
        found.mean(OUTLINES, _pr(setting)) for setting in (UNPRUNED, kept("preserved"), kept("reassigned"))
    )
    return (
        f"Outlines behave as boxes do: of {100 * whole.value:.1f}% (Pr@0.5) reassigned ids leave "
        f"{100 * low.value:.1f}%, preserved ones {100 * high.value:.1f}%."
    )
