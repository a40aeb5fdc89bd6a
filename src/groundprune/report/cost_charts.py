"""Accuracy over what an answer costs the LLM, by position policy."""

from __future__ import annotations

from matplotlib.axes import Axes

from groundprune.evaluation.specs import MAIN_POSITIONS, Setting
from groundprune.evaluation.summary import Share, Summary
from groundprune.pruners.spec import short_name
from groundprune.report.charts import BELOW, Chart, draw_policies, percent_axis, share_of, share_told
from groundprune.report.cost_table import flops_unit
from groundprune.report.headline import Shown

_MEASURE = "REC Acc@0.5"


def accuracy_over_flops(summary: Summary, shown: Shown) -> Chart | None:
    """Of the pruner in front: boxes over the LLM's operations, prefill and decoding, a line per main policy.

    None where it has no answers, or these do not say what they cost.
    """
    whole = summary.result(Setting().id)
    lines: dict[str, list[tuple[float, Share]]] = {}
    for result in summary.settings:
        share, setting = share_of(result, "rec"), result.setting
        if share is None or result.costs is None or setting.pruner is None:
            continue
        if setting.pruner == shown.pruner and setting.positions in MAIN_POSITIONS:
            lines.setdefault(setting.positions, []).append((result.costs.llm_flops, share))
    if not lines:
        return None
    stock = None if whole is None else share_of(whole, "rec")
    most = max(x for points in lines.values() for x, _ in points)
    if whole is not None and whole.costs is not None:
        most = max(most, whole.costs.llm_flops)
    factor, unit = flops_unit(most)
    scaled = {name: sorted(((x / factor, s) for x, s in of), key=lambda p: p[0]) for name, of in lines.items()}

    def draw(ax: Axes) -> None:
        draw_policies(ax, scaled, stock)
        if whole is not None and whole.costs is not None:
            ax.axvline(whole.costs.llm_flops / factor, color=ax.xaxis.label.get_color(), linewidth=0.8, alpha=0.5)
        ax.set_xlim(0, 1.03 * most / factor)
        ax.set_xlabel(f"{unit} of the LLM per answer")
        percent_axis(ax, f"{_MEASURE} (%)", BELOW)

    told = [f"unpruned {share_told(stock)}"] if stock is not None else []
    told += [
        f"{name} " + ", ".join(f"{share_told(share)} at {x:.3g} {unit}" for x, share in points)
        for name, points in scaled.items()
    ]
    return Chart("costs", short_name(shown.pruner or ""), "; ".join(told) + ".", (4.0, 2.9), draw)
