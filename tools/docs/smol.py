"""What training SmolLM2-135M to see left behind, as a table and a figure of the docs."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from groundprune.evaluation.specs import Setting
from groundprune.evaluation.summary import Summary
from groundprune.report.story import ORDER, sentences
from groundprune.report.style import UNPRUNED_LOOK, look_of
from groundprune.report.tables import DETAILED

STAGES = ("tower", "language")
_SPLITS = {"validation": "new scenes", "novel-picture": "pictures never shown"}
_KINDS = {"REC": "boxes, IoU at least 0.5", "VQA": "words"}


def measured(folder: Path, stage: str) -> list[Mapping[str, Any]]:
    """What was measured during a stage on scenes that it did not train on."""
    rows = [json.loads(line) for line in (folder / f"{stage}.jsonl").read_text("utf-8").splitlines()]
    return [row for row in rows if any(name.startswith(("REC", "validation")) for name in row)]


def training_text(record: Mapping[str, Any]) -> str:
    """The facts of a training in a table."""
    rows = [("", *STAGES)]
    plans = [record[stage]["plan"] for stage in STAGES]
    rows += [(name, *(f"{plan[name]:,}" for plan in plans)) for name in ("seed", "steps")]
    rows.append(("numbers that were learnt", *(f"{record[stage]['trained']:,}" for stage in STAGES)))
    for name, said in (("seconds", "minutes"), ("processor", "minutes of processor time")):
        rows.append((said, *(f"{record[stage][name] / 60:.0f}" for stage in STAGES)))
    rule = (":--", "--:", "--:")
    table = "".join("| " + " | ".join(row) + " |\n" for row in (rows[0], rule, *rows[1:]))
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    return f"\n{table}\n`{record['command']}`, {record['machine']}; {versions}.\n\n"


def front_sentence(summary: Summary) -> str:
    """What half of the tokens are worth, as a report says it."""
    settings = {name: Setting.of(*DETAILED, positions=name) for name in ORDER[1:]} | {ORDER[0]: Setting()}
    results = {name: summary.result(settings[name].id) for name in ORDER}
    found = {
        kind: {name: getattr(result, kind).total.accuracy for name, result in results.items() if result is not None}
        for kind in ("rec", "vqa")
    }
    about = (
        "The same of [smol](docs/smol.md), a language model that was pretrained on text (SmolLM2-135M-Instruct) and "
        "then taught to see pictures of real things."
    )
    return "\n".join(textwrap.wrap(" ".join([about, *sentences(found, *DETAILED)]), 118)) + "\n"


def training_figure(folder: Path) -> Figure:
    """A panel per stage: how much was right by step."""
    figure = Figure(figsize=(8.2, 3.2), layout="constrained")
    tower, language = figure.subplots(1, 2, sharey=True)
    for split, said in _SPLITS.items():
        points = [(row["step"], 100 * row[f"{split} things right"]) for row in measured(folder, "tower")]
        _curve(tower, points, said, "preserved" if split == "validation" else "stretched")
    for kind, said in _KINDS.items():
        points = [(row["step"], row[kind]) for row in measured(folder, "language")]
        _curve(language, points, said, "preserved" if kind == "REC" else "official")
    for ax, title in ((tower, "tower: patches named right"), (language, "language model: answers right")):
        ax.axhline(80, color=UNPRUNED_LOOK.colour, linestyle=":", lw=1)
        ax.set_title(title)
        ax.set_xlabel("step")
        ax.set_ylim(0, 102)
        ax.legend(loc="lower right")
    tower.set_ylabel("right (%)")
    return figure


def _curve(ax: Any, points: Sequence[tuple[int, float]], said: str, look: str) -> None:
    ax.plot(*zip(*points, strict=True), color=look_of(look).colour, marker=look_of(look).marker, ms=4, label=said)
