"""What `python -m tools.finetuning` stored, as a table and a figure of the docs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from groundprune.evaluation.statistics import wilson
from groundprune.report.style import look_of
from groundprune.studies.parts.effects import Effect
from groundprune.studies.parts.trained import over_seeds
from tools.docs.tables import table
from tools.finetuning.arms import ARMS, BEFORE, SETTINGS

_NAMES = {
    BEFORE: "none", "unpruned": "whole images", "preserved": "pruned, preserved ids",
    "reassigned": "pruned, reassigned ids",
}  # fmt: skip
PRUNERS = ("random", "cls-visual")


def finetuning_table(found: Mapping[str, Any]) -> str:
    """Right boxes by what the model was trained with, and what it is asked with."""
    header = ["trained with", *SETTINGS]
    rows = [[_NAMES[arm], *(_percent(accuracy(found, arm, name)) for name in SETTINGS)] for arm in _NAMES]
    return f"\n{table(header, rows)}\n{_note(found)}\n\n{_verdict(found)}\n\n"


def finetuning_figure(found: Mapping[str, Any]) -> Figure:
    """A panel per pruner: right boxes under each policy, before training and after each."""
    figure = Figure(figsize=(8.2, 3.4), layout="constrained")
    for ax, pruner in zip(figure.subplots(1, 2, sharey=True), PRUNERS, strict=True):
        for shift, policy in zip((-0.24, 0.0, 0.24), ("unpruned", "preserved", "reassigned"), strict=True):
            name, look = policy if policy == "unpruned" else f"{pruner} {policy}", look_of(policy)
            for x, arm in enumerate(_NAMES):
                share = accuracy(found, arm, name)
                middle, low, high = (100 * value for value in (share.value, *_within(share)))
                ax.bar(x + shift, middle, 0.22, color=look.colour, label=policy if x == 0 else None)
                ax.errorbar(x + shift, middle, [[middle - low], [high - middle]], color="grey", capsize=2, lw=1)
                ax.text(x + shift, high + 1.5, f"{middle:.0f}", ha="center", va="bottom", size=7)
        ax.set_title(f"{pruner}, keep 0.5")
        ax.set_xticks(range(len(_NAMES)), [name.replace(", ", ",\n") for name in _NAMES.values()], size=8)
        ax.set_xlabel("trained with")
        ax.set_ylim(0, 112)
    figure.axes[0].set_ylabel("right boxes (%)")
    figure.legend(
        *figure.axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, title="asked with"
    )
    return figure


def accuracy(found: Mapping[str, Any], arm: str, setting: str) -> Effect:
    """Of the model before training with Wilson's interval over samples; of an arm with Student's over trainings."""
    shares = [row["rec"][setting] for row in found["rows"] if row["arm"] == arm]
    if arm == BEFORE:
        (share,) = shares
        return Effect(arm, 1, share["right"] / share["asked"], *wilson(share["right"], share["asked"]))
    return over_seeds(arm, [share["right"] / share["asked"] for share in shares])


def bought_back(found: Mapping[str, Any], pruner: str) -> Effect:
    """Of what reassigned ids take from the untrained model, the share that training with them gives back."""
    kept, lost = (accuracy(found, BEFORE, f"{pruner} {policy}").value for policy in ("preserved", "reassigned"))
    rows = [row["rec"][f"{pruner} reassigned"] for row in found["rows"] if row["arm"] == "reassigned"]
    return over_seeds(pruner, [(row["right"] / row["asked"] - lost) / (kept - lost) for row in rows])


def _note(found: Mapping[str, Any]) -> str:
    plan, about = found["plan"], found["about"]
    seeds = len({row["seed"] for row in found["rows"] if row["arm"] in ARMS})
    seconds = [row["seconds"] for row in found["rows"] if "seconds" in row]
    return (
        f"Right boxes (IoU of at least 0.5) in percent, of {plan['asked']} expressions of scenes that no training "
        "drew; keep 0.5. Before training with Wilson's 95% interval, after it the mean of "
        f"{seeds} trainings with Student's. Each training: {plan['steps']} steps of {plan['batch']} scenes, up to "
        f"{plan['turns']} boxes a scene, AdamW from {plan['rate']:g} down to 0, half of the tokens dropped at random "
        f"where it is pruned; {min(seconds) / 60:.1f} to {max(seconds) / 60:.1f} minutes of one core. torch "
        f"{about['versions']['torch']}, transformers {about['versions']['transformers']}."
    )


def _verdict(found: Mapping[str, Any]) -> str:
    told = []
    for pruner in PRUNERS:
        before = {p: accuracy(found, BEFORE, f"{pruner} {p}") for p in ("preserved", "reassigned")}
        share, back = accuracy(found, "reassigned", f"{pruner} reassigned"), bought_back(found, pruner)
        told.append(
            f"- `{pruner}`: {_percent(before['preserved'])} with preserved ids and no training; "
            f"{_percent(before['reassigned'])} with reassigned ids; {_percent(share)} with reassigned ids after "
            f"training with them, which is {_percent(back, bounded=False)}% of what they took."
        )
    return "\n".join(told)


def _within(effect: Effect) -> Sequence[float]:
    return max(0.0, effect.low), min(1.0, effect.high)


def _percent(effect: Effect, bounded: bool = True) -> str:
    low, high = _within(effect) if bounded else (effect.low, effect.high)
    return f"{100 * effect.value:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
