"""What training SmolLM2-135M to see left behind, as a table and a figure of the docs."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from groundprune.evaluation.specs import Setting
from groundprune.evaluation.summary import Summary
from groundprune.report.cells import accuracy
from groundprune.report.story import ORDER
from groundprune.report.style import UNPRUNED_LOOK, look_of
from groundprune.report.tables import DETAILED
from groundprune.studies.index import LINES
from groundprune.studies.page import markdown
from groundprune.studies.study import Findings, Study
from tools.docs.tables import table

STAGES = ("tower", "language")
_SPLITS = {"validation": "new scenes", "novel-picture": "pictures never shown"}
_KINDS = {"REC": "boxes, IoU at least 0.5", "VQA": "words"}


def measured(folder: Path, stage: str) -> list[Mapping[str, Any]]:
    """What was measured during a stage on scenes that it did not train on."""
    rows = [json.loads(line) for line in (folder / f"{stage}.jsonl").read_text("utf-8").splitlines()]
    return [row for row in rows if any(name.startswith(("REC", "validation")) for name in row)]


def training_text(record: Mapping[str, Any]) -> str:
    """The facts of a training in a table."""
    header, rows = ("", *STAGES), []
    plans = [record[stage]["plan"] for stage in STAGES]
    rows += [(name, *(f"{plan[name]:,}" for plan in plans)) for name in ("seed", "steps")]
    rows.append(("numbers that were learnt", *(f"{record[stage]['trained']:,}" for stage in STAGES)))
    for name, said in (("seconds", "minutes"), ("processor", "minutes of processor time")):
        rows.append((said, *(f"{record[stage][name] / 60:.0f}" for stage in STAGES)))
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    return f"\n{table(header, rows)}\n`{record['command']}`, {record['machine']}; {versions}.\n\n"


def novel_table(summaries: Sequence[Summary]) -> str:
    """A row per split: whole images, and half of the tokens under both policies."""
    kinds = {"rec": "REC", "vqa": "VQA"}
    header = ["split", "asked of each kind", *(f"{said} {name}" for said in kinds.values() for name in ORDER)]
    rows = []
    for summary in summaries:
        cells = [accuracy([summary], setting, kind) for kind in kinds for setting in _settings().values()]
        rows.append([f"`{summary.run['split']}`", str(summary.run["scenes"]), *cells])
    pruner, keep = DETAILED
    return f"{table(header, rows)}\nPercent, with 95% intervals; pruned: `{pruner}` at {keep}.\n"


def _settings() -> dict[str, Setting]:
    return {name: Setting() if name == "unpruned" else Setting.of(*DETAILED, positions=name) for name in ORDER}


def studies_table(pocket: Mapping[Study, Mapping[str, Any]], smol: Mapping[Study, Mapping[str, Any]]) -> str:
    """What the index of the studies asks, of both models. Each: findings.json by study."""
    rows = []
    for study, found in smol.items():
        for line in (line for line in LINES if line.study == study.name):
            there, here = (line.answer(Findings.from_json(data)) for data in (pocket[study], found))
            name, measured = f"[{study.name}](studies/{study.name}.md)", _of_smol(here.measured)
            rows.append([line.text, name, here.text, there.verdict, measured, f"**{here.verdict}**"])
    claims = markdown(["claim or question", "study", "asked here", "pocket", "smol", "verdict"], rows)
    answers = markdown(["study", "answer"], [[study.name, found["answer"]] for study, found in smol.items()])
    return f"\n{claims}\n\n{answers}\n\n"


def _of_smol(measured: str) -> str:
    """Without what the study measured of other models beside it."""
    effects = re.split(r"(?<=\)), ", measured)
    return ", ".join(effect for effect in effects if "(smol," in effect) or measured


def front_sentence(summary: Summary) -> str:
    """What half of the tokens are worth, by each pruner that was run."""
    pruners = list(dict.fromkeys(difference.pruner for difference in summary.differences))
    renumbered, kept = (
        [f"{_right(summary, Setting.of(pruner, DETAILED[1], positions=name))} ({pruner})" for pruner in pruners]
        for name in ORDER[1:]
    )
    told = (
        "[smol](docs/smol.md) is a language model that was pretrained on text, SmolLM2-135M-Instruct, and then "
        f"taught to see pictures of real things. It finds {_right(summary, Setting())} of the boxes; with half of "
        f"its visual tokens, renumbered, {_listed(renumbered)}; with their ids preserved, {_listed(kept)}."
    )
    return "\n".join(textwrap.wrap(told, 118, break_on_hyphens=False)) + "\n"


def _listed(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} and {words[-1]}"


def _right(summary: Summary, setting: Setting) -> str:
    found = summary.result(setting.id)
    assert found is not None
    return f"{100 * found.rec.total.accuracy:.1f}%"


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
