"""What `python -m benchmarks` stored of models, as tables and a figure of docs/speed.md."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from matplotlib.figure import Figure

from groundprune.report.style import PAGE_INK
from tools.docs.tables import table

LIMITS = {"ttft": 1.05, "decode": 1.02, "decode inside": 1.05, "sweep": 1.05}
_INSIDE = "fastv"
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
_MARKERS = "osD^vP"


def ttft_table(found: Mapping[str, Any]) -> str:
    """Each pruner's prefill over the model's own time, by model, tokens and keep."""
    cells = _in_order(found["cells"])
    names = _names(cells)
    rows = []
    for key, cell in cells.items():
        model, tokens, keep = key.split()
        ratios = cell["ratios"]
        rows.append([
            model, f"{int(tokens):,}", f"{keep} ({cell['kept']})", shown(ratios["native"]),
            *(shown(ratios.get(name)) for name in names),
        ])  # fmt: skip
    limit = LIMITS["ttft"]
    over = _over(cells, limit, lambda name: name != "native")
    said = f"Every median is at most {limit}." if not over else f"Above {limit}: {', '.join(over)}."
    header = ["model", "tokens", "keep", "native / unpruned", *(f"`{name}`" for name in names)]
    return table(header, rows) + f"\n{said} {_basis(found)}\n"


def decode_table(found: Mapping[str, Any]) -> str:
    """A step of decoding over that of a prompt that is born as short."""
    names = ("prune_inputs", "prune", _INSIDE)
    rows = [
        [*key.split(), *(shown(cell["ratios"].get(name)) for name in names)] for key, cell in found["cells"].items()
    ]
    header = ["model", "tokens", "keep", "`gp.prune_inputs`", "`gp.prune`, before the LLM", "`gp.prune`, `fastv`"]
    before = _over(found["cells"], LIMITS["decode"], lambda name: name != _INSIDE)
    inside = _over(found["cells"], LIMITS["decode inside"], lambda name: name == _INSIDE)
    said = _verdict(before, LIMITS["decode"], "before the LLM") + _verdict(
        inside, LIMITS["decode inside"], "with stages inside of it"
    )
    return table(header, rows) + f"\n{said}{_basis(found)}\n"


def memory_table(found: Mapping[str, Any]) -> str:
    """Bytes at the peak and in the cache, preserved and reassigned."""
    rows, equal, most = [], True, 0.0
    for key, cell in found["cells"].items():
        model, tokens, keep = key.split()
        for name in [n.removesuffix(" preserved") for n in cell["peak"] if n.endswith(" preserved")]:
            peaks = [cell["peak"][f"{name} {policy}"] for policy in ("preserved", "reassigned")]
            caches = [cell["cache"][f"{name} {policy}"] for policy in ("preserved", "reassigned")]
            equal &= caches[0] == caches[1] == cell["cache by formula"]
            most = max(most, peaks[0] / peaks[1] - 1)
            rows.append([
                model, tokens, f"{keep} ({cell['kept']})", f"`{name}`", *(_mega(peak) for peak in peaks),
                _mega(cell["peak"]["native"]), _mega(cell["peak"]["stock"]), _mega(caches[0]),
            ])  # fmt: skip
    header = ["model", "tokens", "keep", "pruner", "peak, preserved", "reassigned", "native", "unpruned", "cache"]
    said = (
        f"MB of tensors beside weights and inputs, counted once. Preserved ids need at most {100 * most:.2f}% more "
        f"at the peak than reassigned. The caches {'are equal, and' if equal else 'are NOT all equal to'} "
        "what the formula of `evaluate --costs` says."
    )
    return table(header, rows) + f"\n{said}\n"


def sweep_table(found: Mapping[str, Any]) -> str:
    """Sixteen settings over one tower and sixteen LLM runs."""
    rows = [
        [*key.split(), *(shown(cell["ratios"][name]) for name in ("encode once", "each with its tower"))]
        for key, cell in found["cells"].items()
    ]
    over = _over(found["cells"], LIMITS["sweep"], lambda name: name == "encode once")
    said = _verdict(over, LIMITS["sweep"], "with images encoded once")
    header = ["model", "tokens", "encoded once", "each with its tower"]
    return table(header, rows) + f"\n{said}{_basis(found)}\n"


def batch_table(found: Mapping[str, Any]) -> str:
    """By prompts in a batch."""
    rows = []
    for key, cell in found["cells"].items():
        model, tokens, keep, pruner, _, size = key.split()
        rows.append([model, tokens, keep, size, shown(cell["ratios"][pruner]), f"{cell['seconds a prompt']:.2f}"])
    header = ["model", "tokens", "keep", "prompts", "pruned / native", "seconds a prompt"]
    return table(header, rows) + f"\n{_basis(found)}\n"


def official_table(found: Mapping[str, Any]) -> str:
    """The authors' code over ours."""
    rows = []
    cells = sorted(found["cells"].items(), key=lambda cell: int(cell[0].split()[1]))  # by tokens, else as measured
    for key, cell in cells:
        method, tokens, _, size = key.split()
        if "error" in cell:
            rows.append([method, f"{int(tokens):,}", size, "did not run here", "", "", ""])
            continue
        alone = cell.get("theirs in a batch against alone")
        rows.append([
            method, f"{int(tokens):,}", size, cell["versions"][0]["attention"], shown(cell["ratios"]["theirs"]),
            f"{cell['logits']:.0e}", "" if alone is None else f"{alone:.0e}",
        ])  # fmt: skip
    header = ["method", "tokens", "prompts", "their attention", "theirs / ours", "logits apart", "theirs, in a batch"]
    told = {key: cell["ratios"]["theirs"]["ratio"] for key, cell in found["cells"].items() if "ratios" in cell}
    slower = [f"{key} ({ratio:.3f})" for key, ratio in told.items() if ratio < 1]
    said = f"Theirs takes less time in {', '.join(slower)}." if slower else "Theirs takes at least as long in each."
    return table(header, rows) + f"\n{said} {_basis(found)}\n"


def ttft_figure(found: Mapping[str, Any]) -> Figure:
    """The pruned prefill over the model's own time, a panel per model and count of tokens."""
    cells = _in_order(found["cells"])
    panels = list(dict.fromkeys(tuple(key.split()[:2]) for key in cells))
    names = _names(cells)
    figure = Figure(figsize=(1.2 + 3.4 * max(2, len(panels)), 3.2), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for ax, panel in zip(axes, panels, strict=True):
        keeps = [key.split()[2] for key in cells if tuple(key.split()[:2]) == panel]
        for i, name in enumerate(names):
            for x, keep in enumerate(keeps):
                of = cells[" ".join((*panel, keep))]["ratios"].get(name)
                if of is None:
                    continue
                middle, (low, high) = of["ratio"], of["interval"]
                place = x + 0.13 * (i - (len(names) - 1) / 2)
                reach = [[middle - low], [high - middle]] if high - low < 1 else None
                ax.errorbar(
                    [place], [middle], reach, color=_COLOURS[i % 6], marker=_MARKERS[i % 6], capsize=2, lw=1,
                    label=name if x == 0 else None,
                )  # fmt: skip
        ax.axhline(1, color=PAGE_INK, lw=1)
        ax.axhline(LIMITS["ttft"], color=PAGE_INK, lw=1, ls=":")
        ax.set_xticks(range(len(keeps)), keeps)
        ax.set_xlabel("keep")
        ax.set_title(f"{panel[0]}, {int(panel[1]):,} tokens")
        ax.grid(axis="y")
    axes[0].set_ylabel("prefill / the model's own")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(names))
    return figure


def _in_order(cells: Mapping[str, Any]) -> dict[str, Any]:
    """However they were measured: by model, tokens and falling keep."""

    def order(key: str) -> tuple[str, int, float]:
        model, tokens, keep = key.split()
        return model, int(tokens), -float(keep)

    return {key: cells[key] for key in sorted(cells, key=order)}


def _names(cells: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(name for cell in cells.values() for name in cell["ratios"] if name != "native"))


def _over(cells: Mapping[str, Any], limit: float, counts: Any) -> list[str]:
    """Which ratios lie above the limit, in words."""
    return [
        f"{name} in {key} ({of['ratio']:.3f})"
        for key, cell in cells.items()
        for name, of in cell["ratios"].items()
        if counts(name) and of["ratio"] > limit
    ]


def _verdict(over: Iterable[str], limit: float, what: str) -> str:
    listed = ", ".join(over)
    return f"Above {limit} {what}: {listed}. " if listed else f"At most {limit} {what}. "


def shown(of: Mapping[str, Any] | None) -> str:
    """A ratio, with its interval where rounds were enough for one."""
    if of is None:
        return ""
    low, high = of["interval"]
    return f"{of['ratio']:.3f}" + (f" [{low:.3f}, {high:.3f}]" if high - low < 1 else "")


def _mega(count: float) -> str:
    return f"{count / 1e6:.2f}"


def _basis(found: Mapping[str, Any]) -> str:
    about = found["about"]
    machine, versions = about["machine"], about["versions"]
    rounds = {len(cell["rounds"]) for cell in found["cells"].values() if "rounds" in cell}
    where = machine.get("gpu") or f"{machine['processor']}, processor time of one thread"
    return (
        f"Medians over {'/'.join(map(str, sorted(rounds)))} rounds in turns with 95% bootstrap intervals; {where}, "
        f"{machine['dtype']}, torch {versions['torch']}, transformers {versions['transformers']}."
    )
