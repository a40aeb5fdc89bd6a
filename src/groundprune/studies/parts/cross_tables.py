"""The tables of study 4."""

from __future__ import annotations

from collections.abc import Sequence

from groundprune.evaluation.specs import Setting
from groundprune.studies.parts.cross_cells import POLICIES, SELECTIONS, Cells, Covered, coverage, whole
from groundprune.studies.parts.effects import told_shares
from groundprune.studies.study import Table


def tables(cells: Sequence[Cells]) -> list[Table]:
    """Accuracies, what explains them, and the split of the loss, of all runs at one keep."""
    runs, keep = [c.run for c in cells], cells[0].keep if cells else ""
    if not any(c.samples for c in cells):
        return []
    named = {s: [Setting.of(s, keep, positions=policy) for policy in POLICIES] for s in SELECTIONS}
    named["random, target whole"] = [whole(keep, policy) for policy in POLICIES]
    accuracy = [
        [name, *(told_shares([run.share(setting, "rec") for run in runs]) for setting in settings)]
        for name, settings in named.items()
    ]
    found = [Table(f"REC right in percent at keep {keep}, by run", ["selection", *POLICIES], accuracy)]
    found.append(_of_factors(keep, cells))
    header = ["selection", "run", "lost", "ids", "coverage", "the rest", "ids cost more where the target is whole by"]
    lost = []
    for selection in SELECTIONS:
        for c in cells:
            if s := c.split(selection):
                told_parts = (s.loss, s.positions, s.coverage, s.rest, s.meeting)
                lost.append([selection, c.run.model, *(part.told(100) for part in told_parts)])
    return [*found, Table(f"Points lost with reassigned ids at keep {keep}", header, lost)]


def _of_factors(keep: str, cells: Sequence[Cells]) -> Table:
    rows = []
    for c in cells:
        if f := c.factors:
            for name, share, deviance, freedom in zip(
                ("policy", "selection, after policy", "interaction"),
                (f.policy, f.selection, f.interaction), f.deviances, f.degrees, strict=True,
            ):  # fmt: skip
                rows.append([c.run.model, name, f"{deviance:.0f}", str(freedom), share.told(100, sign=False)])
            rows.append([c.run.model, "interaction, log-odds (root mean square)", "", "", f.size.told(sign=False)])
        if covered := coverage(c):
            rows += _of_coverage(c.run.model, covered)
    return Table(f"What explains right answers at keep {keep}", ["run", "", "deviance", "df", "% or log-odds"], rows)


def _of_coverage(model: str, covered: Covered) -> list[list[str]]:
    names = "single answers: policy", "share kept of the target, after it", "selection, after both"
    rows = [[model, name, f"{value:.0f}", "", ""] for name, value in zip(names, covered.deviances, strict=True)]
    slopes = covered.slopes.items()
    return rows + [[model, f"all of the target against none, {policy}", "", "", s.told()] for policy, s in slopes]
