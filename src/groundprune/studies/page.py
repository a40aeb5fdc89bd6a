"""A study's page, and the index of all: markdown made of stored findings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from groundprune.studies.study import Claim, Findings, Study, Table


def page(study: Study, stored: Mapping[str, Any], figure: str) -> str:
    """Markdown of one study. stored: its findings.json. figure: the file, as the page reaches it."""
    findings = Findings.from_json(stored)
    parts = [f"# {study.title}", f"**Question.** {study.question}", f"**What the paper says.** {study.paper}"]
    parts += [f"**Answer.** {findings.answer}", f"![{study.title}]({figure})", claims_table(findings.claims)]
    parts += [_table(table) for table in findings.tables]
    if findings.notes:
        parts.append("\n".join(f"- {note}" for note in findings.notes))
    parts.append(_made(study, stored["runs"]))
    return "\n\n".join(part for part in parts if part) + "\n"


def claims_table(claims: Sequence[Claim]) -> str:
    """Every claim in a row."""
    rows = [[c.text, c.paper, c.measured, f"**{c.verdict}**"] for c in claims]
    return markdown(["claim", "paper", "measured", "verdict"], rows) if rows else ""


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; a bar in a cell stays a bar."""

    def row(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    return "\n".join([row(header), row([":--"] * len(header)), *map(row, rows)])


def _table(table: Table) -> str:
    return f"**{table.title}**\n\n" + markdown(table.header, table.rows)


def _made(study: Study, runs: Mapping[str, Mapping[str, Any]]) -> str:
    told = []
    for model, run in runs.items():
        versions = ", ".join(f"{package} {version}" for package, version in run["versions"].items())
        asked = f"{run['data']}, {run['split']}, seed {run['seed']}"
        if "scenes" in run:
            asked += f", {run['scenes']} samples of each kind"
        if "asked" in run:
            asked += f", {' and '.join(f'{count} {kind.upper()} samples' for kind, count in run['asked'].items())}"
        asked += ", a quick run" if run["quick"] else ""
        told.append(f"- {model} (weights {run['weights']}, {run['dtype']}): {asked}; {versions}; {run['date']}")
    name, over = study.name, "trainings" if study.trained else "samples"
    by = f"python -m tools.variants {name}" if study.trained else f"groundprune study {name}"
    command = f"Made by `{by}`; 95% intervals; differences are paired over {over}."
    return "\n".join([command, "", *told])
