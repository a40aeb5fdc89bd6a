"""The tables of study 6."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from groundprune.studies.parts.effects import Effect, difference
from groundprune.studies.parts.logistic import Estimate
from groundprune.studies.parts.residual_rows import (
    BINS,
    JOINT,
    KEEPS,
    PRUNERS,
    SHARES,
    UNPRUNED,
    Answers,
    Explained,
    changed,
    plain,
)
from groundprune.studies.study import Run, Table


def given_back(runs: Sequence[Run], interventions: Mapping[str, str]) -> Table:
    """Points lost with ids preserved, and what each intervention, by name with what a reader calls it, gives back."""
    rows = []
    for pruner, keep, run in _each(runs):
        loss = difference(run, UNPRUNED, plain(pruner, keep), "rec")
        back = [difference(run, changed(pruner, keep, name), plain(pruner, keep), "rec") for name in interventions]
        if loss.n:
            rows.append([pruner, keep, run.model, str(loss.n), str(loss), *(_share_of(e, loss) for e in back)])
    header = ["pruner", "keep", "run", "n", "lost", *interventions.values()]
    return Table("Points lost with ids preserved, and given back at equal keep (share of the loss)", header, rows)


def by_share(runs: Sequence[Run]) -> Table:
    """Right answers and IoU by how much of the target is kept."""
    rows = []
    for pruner, keep, run in _each(runs):
        for at, n, right, iou in Answers.of(run, pruner, keep).bins():
            kept = BINS[at].replace("\n", " ")
            rows.append([pruner, keep, run.model, kept, str(n), f"{100 * right:.1f}", f"{iou:.2f}"])
    header = ["pruner", "keep", "run", "% of the target kept", "n", "right in percent", "mean IoU"]
    return Table("By share of the target's tokens that is kept", header, rows)


def regressions(runs: Sequence[Run]) -> Table:
    """What goes with being right, each alone and several together."""
    rows = []
    for pruner, keep, run in _each(runs):
        answers = Answers.of(run, pruner, keep)
        if not len(answers.right):
            continue
        together = answers.joint()
        for name, called in SHARES.items():
            joint = together[name].slope.told(digits=2) if name in JOINT else ""
            rows.append([pruner, keep, run.model, called, *_told(answers.alone(name)), joint])
        fit = max(found.explained for found in together.values())
        rows.append([pruner, keep, run.model, "all four together", "", "", f"{100 * fit:.1f}", "", ""])
    header = ["pruner", "keep", "run", "", "n", "alone", "% of deviance", "r with IoU", "with the others"]
    return Table("What goes with a right answer: log-odds per standard deviation", header, rows)


def _each(runs: Sequence[Run]) -> list[tuple[str, str, Run]]:
    return [(pruner, keep, run) for pruner in PRUNERS for keep in KEEPS for run in runs]


def _told(found: Explained) -> list[str]:
    slope: Estimate = found.slope
    if not slope.n:
        return ["0", "-", "-", "-"]
    return [str(slope.n), slope.told(digits=2), f"{100 * found.explained:.1f}", f"{found.iou:+.2f}"]


def _share_of(effect: Effect, loss: Effect) -> str:
    """With the share of the loss, where there is one."""
    return f"{effect} ({100 * effect.value / loss.value:.0f}%)" if effect.n and loss.low > 0 else str(effect)
