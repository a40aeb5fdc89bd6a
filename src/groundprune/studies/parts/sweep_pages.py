"""The sweep's figure and tables."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from groundprune.report.style import Look
from groundprune.studies.parts.contrasts import cell, contrast, contrasts, effect_line, mean, percents
from groundprune.studies.parts.drawing import legend, line, panels, percent_axis
from groundprune.studies.parts.effects import told_share
from groundprune.studies.parts.sweep_settings import HALF, KEEPS, OURS, POLICIES, RIVALS, SIX, UNPRUNED, able, row_of
from groundprune.studies.study import Run, Table

_OURS_LOOK, _BEST_LOOK = Look("#000000", "s", "-"), Look("#8A8A8A", "X", "-.")
_DROPPED = [round(100 * (1 - float(keep))) for keep in KEEPS]


def drawn(runs: Sequence[Run]) -> Figure:
    """REC of each of the paper's pruners, the mean of VQA, and who keeps most REC when ids are preserved."""
    run_at_all = {row["setting"].partition("/")[0] for run in runs for row in run.rows}
    pruners = [pruner for pruner in SIX if pruner in run_at_all]
    figure, axes = panels(len(pruners) + 2, across=2, height=2.2)
    for ax, pruner in zip(axes, pruners, strict=False):
        for i, run in enumerate(runs):
            for policy in POLICIES:
                settings = [cell(pruner, keep, policy) for keep in KEEPS]
                shown = [(x, run.share(s, "rec")) for x, s in zip(_DROPPED, settings, strict=True)]
                shown = [(x, share) for x, share in shown if share.n]
                if shown:
                    line(ax, [x for x, _ in shown], [share for _, share in shown], policy, i)
        _dressed(ax, runs, f"REC, {pruner}", "rec")
    for i, run in enumerate(runs):
        for policy in POLICIES[:2]:
            _means(axes[-2], run, i, policy)
        _best(axes[-1], runs, run, i)
    _dressed(axes[-2], runs, "VQA, mean of these pruners", "vqa")
    _dressed(axes[-1], runs, "REC, ids preserved", "rec")
    legend(figure, axes)
    return figure


def table(runs: Sequence[Run], kind: str) -> Table:
    """Every pruner and policy over the keeps."""
    unpruned = percents(contrasts(runs, {UNPRUNED: 1.0}, kind))
    rows = [["unpruned", "", unpruned, *([""] * (len(KEEPS) - 1))]]
    for pruner in (*SIX, *RIVALS):
        for policy in POLICIES:
            cells = row_of(runs, pruner, policy, kind)
            if any(cell.strip("-/ ") for cell in cells):
                rows.append([pruner, policy, *cells])
    n = " / ".join(str(run.share(UNPRUNED, kind).n) for run in runs)
    title = f"{kind.upper()}, right answers in percent ({' / '.join(run.model for run in runs)}; n = {n})"
    return Table(title, ["pruner", "ids", *(f"keep {keep}" for keep in KEEPS)], rows)


def half_table(runs: Sequence[Run]) -> Table:
    """REC of each pruner at half of the tokens, with intervals: what the ids cost it, and what is left."""
    rows = []
    for pruner in (*SIX, *RIVALS):
        kept, moved = (cell(pruner, HALF, policy) for policy in POLICIES[:2])
        for run in runs:
            if run.share(kept, "rec").n:
                gain = contrast(run, {kept: 1.0, moved: -1.0}, "rec")
                shares = [told_share(run.share(setting, "rec")) for setting in (kept, moved)]
                whole = run.share(UNPRUNED, "rec").accuracy
                left = f"{100 * run.share(kept, 'rec').accuracy / whole:.0f}%" if whole else "-"
                rows.append([pruner, run.model, *shares, str(gain), left])
    header = ["pruner", "model", "preserved", "reassigned", "difference", "preserved, of unpruned"]
    return Table("REC at half of the tokens, right answers in percent", header, rows)


def _means(ax: Axes, run: Run, i: int, policy: str) -> None:
    """VQA, over the pruners that this run has at a keep."""
    effects = []
    for keep in KEEPS:
        names = able([run], SIX, "vqa", keep, policy)
        effects.append(contrast(run, mean([cell(p, keep, policy) for p in names]), "vqa"))
    effect_line(ax, _DROPPED, effects, policy, i)


def _best(ax: Axes, runs: Sequence[Run], run: Run, i: int) -> None:
    """`coverage`, and at each keep the best of all others over the runs."""
    others = [p for p in (*SIX, *RIVALS) if p != OURS]
    best, ours = [], []
    for keep in KEEPS:
        ours.append(contrast(run, {cell(OURS, keep): 1.0}, "rec"))
        settings = [cell(p, keep) for p in able(runs, others, "rec", keep, "preserved")]
        top = max(settings, key=lambda s: sum(each.share(s, "rec").accuracy for each in runs), default=None)
        best.append(contrast(run, {top: 1.0} if top else {}, "rec"))
    effect_line(ax, _DROPPED, ours, OURS, i, _OURS_LOOK)
    effect_line(ax, _DROPPED, best, "best other pruner", i, _BEST_LOOK)


def _dressed(ax: Axes, runs: Sequence[Run], title: str, kind: str) -> None:
    for i, run in enumerate(runs):
        share = run.share(UNPRUNED, kind)
        if share.n:
            line(ax, [0], [share], "unpruned", i)
    ax.set_title(title)
    ax.set_xlim(-4, 94)
    ax.set_xticks(range(0, 91, 10))
    ax.set_xlabel("visual tokens dropped (%)")
    percent_axis(ax, "right answers (%)")
