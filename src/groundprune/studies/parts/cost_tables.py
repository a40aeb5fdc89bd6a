"""The table and the curves of what was measured of one model."""

from __future__ import annotations

from matplotlib.axes import Axes

from groundprune.studies.parts.costs import (
    DECODE,
    KEEPS,
    KV,
    MEMORY,
    NATIVE,
    PREFILL,
    PRESERVED,
    REASSIGNED,
    UNPRUNED,
    VARIANTS,
    cell,
)
from groundprune.studies.parts.effects import Effect
from groundprune.studies.parts.ratios import ENOUGH, Costs
from groundprune.studies.study import Table

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # that the colour-blind tell apart
# Marker, line and whether the marker is filled.
LINES = {PRESERVED: ("o", "-", True), REASSIGNED: ("s", "none", False), NATIVE: ("none", "--", False)}


def cost_table(costs: Costs) -> Table:
    """Every keep and variant in percent of the unpruned model."""
    header = ["tokens", "variant", "slots", "prefill", "per new token", "peak memory", "KV", "choosing"]
    rows = []
    for keep in KEEPS:
        for variant in VARIANTS:
            chosen = "-" if variant == NATIVE else percent(costs.choosing(variant, keep))
            times = [percent(costs.ratio(what, variant, keep)) for what in (PREFILL, DECODE)]
            memory = [f"{100 * costs.of_memory(what, variant, keep):.1f}" for what in (MEMORY, KV)]
            slots = costs.about["cells"][cell(variant, keep)]["slots"]
            rows.append([f"{costs.about['visual'][keep]}", variant, str(slots), *times, *memory, chosen])
    about, whole = costs.about, costs.about["cells"][UNPRUNED]
    made = f"{about['layers']} layers of width {about['width']}, {about['dtype']} on {about['device']}"
    return Table(
        f"{costs.name} ({made}; {len(costs.repetitions)} repetitions), in percent of the unpruned model: "
        f"{whole['slots']} slots, {whole[KV] / 1e6:.3g} MB of cache, {whole[MEMORY] / 1e6:.3g} MB at the peak",
        header, rows,
    )  # fmt: skip


def percent(effect: Effect) -> str:
    """With its interval, where there were enough repetitions for one."""
    if not effect.n:
        return "-"
    told = f"{100 * effect.value:.1f}"
    return told if effect.n < ENOUGH else f"{told} [{100 * effect.low:.1f}, {100 * effect.high:.1f}]"


def draw_costs(ax: Axes, costs: Costs, what: str, colour: str) -> None:
    """One cost of one model over the share of tokens that stay, in every variant; 100% is the unpruned model."""
    for variant, (marker, line, filled) in LINES.items():
        found = [_share(costs, what, variant, keep) for keep in KEEPS]
        if not all(effect.n for effect in found):
            continue
        x, y = [100.0, *(100 * float(keep) for keep in KEEPS)], [100.0, *(100 * effect.value for effect in found)]
        ax.plot(
            x, y, color=colour, marker=marker, linestyle=line, markerfacecolor=colour if filled else "white",
            label=costs.name if variant == PRESERVED else None,
            markersize=4 if filled else 7, zorder=3 if filled else 2,
        )  # fmt: skip
        if what in (PREFILL, DECODE) and variant != NATIVE and found[0].n >= ENOUGH:
            below, above = ([100 * max(0.0, e) for e in side] for side in _reach(found))
            ax.errorbar(x[1:], y[1:], yerr=[below, above], fmt="none", ecolor=colour, elinewidth=0.8, capsize=2)


def _reach(found: list[Effect]) -> tuple[list[float], list[float]]:
    return [e.value - e.low for e in found], [e.high - e.value for e in found]


def _share(costs: Costs, what: str, variant: str, keep: str) -> Effect:
    if what in (MEMORY, KV):
        value = costs.of_memory(what, variant, keep)
        return Effect(costs.name, 1, value, value, value)
    return costs.ratio(what, variant, keep)
