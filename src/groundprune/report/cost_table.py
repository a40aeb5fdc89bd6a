"""What answers cost under each setting, as one table: means per answer, in brackets in percent of unpruned."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

from groundprune.evaluation.specs import Setting
from groundprune.evaluation.summary import Summary
from groundprune.pruners.spec import short_name
from groundprune.report.cells import EMPTY

HEADER = ["pruner", "keep", "positions"]
# 1000 times a unit is written in the next one.
_FLOPS = ("FLOPs", "kFLOPs", "MFLOPs", "GFLOPs", "TFLOPs", "PFLOPs")
_BYTES = ("B", "kB", "MB", "GB")
Measure = Callable[[Summary, Setting], float | None]


def cost_rows(results: Sequence[Summary]) -> tuple[list[str], list[list[str]]]:
    """Header and rows, a row per setting in the order in which they were run; empty where no costs are stored.

    results: of one model, or of several training seeds of it, whose means are shown.
    """
    settings = [r.setting for r in results[0].settings]
    known = [s for s in settings if any(_mean(results, s, measure) is not None for measure in _MEASURES.values())]
    columns = [_column(results, known, title, measure) for title, measure in _MEASURES.items()]
    shown = [(title, cells) for title, cells in columns if any(cell != EMPTY for cell in cells)]
    rows = [
        [short_name(s.pruner or "unpruned"), s.budget or "", s.positions if s.pruner or not s.plain else ""]
        for s in known
    ]
    return [*HEADER, *(title for title, _ in shown)], [
        [*row, *(cells[i] for _, cells in shown)] for i, row in enumerate(rows)
    ]


def scaled(value: float, units: Sequence[str]) -> tuple[float, str]:
    """What a value is divided by to be written in the largest unit that leaves at least 1, and that unit."""
    index = next((i for i in reversed(range(len(units))) if abs(value) >= 1000**i), 0)
    return 1000**index, units[index]


def flops_unit(value: float) -> tuple[float, str]:
    """`scaled` for operations."""
    return scaled(value, _FLOPS)


def _of_costs(name: str) -> Measure:
    def get(summary: Summary, setting: Setting) -> float | None:
        result = summary.result(setting.id)
        return None if result is None or result.costs is None else getattr(result.costs, name)

    return get


def _seconds(summary: Summary, setting: Setting) -> float | None:
    found = summary.timing.get(setting.id)
    return None if found is None else found.mean


# By title; {} stands for the unit that fits the largest number.
_MEASURES: dict[str, Measure] = {
    "prefill\ntokens": _of_costs("prefill_tokens"),
    "per\nlayer": _of_costs("layer_tokens"),
    "prefill\n{}": _of_costs("prefill_flops"),
    "total\n{}": _of_costs("total_flops"),
    "KV cache\n{}": _of_costs("kv_bytes"),
    "seconds": _seconds,
}


def _column(
    results: Sequence[Summary], settings: Sequence[Setting], title: str, measure: Measure
) -> tuple[str, list[str]]:
    values = [_mean(results, setting, measure) for setting in settings]
    whole, factor = _mean(results, Setting(), measure), 1.0
    if "{}" in title:
        units = _BYTES if "KV" in title else _FLOPS
        factor, unit = scaled(max((v for v in values if v is not None), default=0.0), units)
        title = title.format(unit)
    return title, [_cell(v, whole, factor, plain=s.plain) for s, v in zip(settings, values, strict=True)]


def _mean(results: Sequence[Summary], setting: Setting, measure: Measure) -> float | None:
    """Over the results; None where one of them lacks it."""
    found = [value for result in results if (value := measure(result, setting)) is not None]
    return statistics.fmean(found) if len(found) == len(results) else None


def _cell(value: float | None, whole: float | None, factor: float, plain: bool) -> str:
    if value is None:
        return EMPTY
    ratio = "" if not whole or plain else f" ({100 * value / whole:.0f}%)"
    return f"{value / factor:.3g}{ratio}" if value / factor < 1000 else f"{value / factor:.0f}{ratio}"
