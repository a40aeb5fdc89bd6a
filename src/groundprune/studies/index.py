"""The index of all studies: each claim of the paper and each question of its readers, answered in a line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from groundprune.studies.page import markdown
from groundprune.studies.study import Findings, Study

LIMITS = (
    "All figures are of the pocket model, in both of its trainings: 2 million parameters, drawn scenes of coloured "
    "shapes, 144 visual tokens. They show a mechanism and its size in that model, not what a large model loses on "
    "photographs; every study also runs on a checkpoint and data of one's own (`--model`, `--data`). *Holds* means: "
    "in both trainings the 95% interval excludes zero, or, of a claim of no difference, lies within a margin "
    "that was set beforehand (1 point of accuracy, 2% of time)."
)


@dataclass(frozen=True)
class Line:
    """study, claim: which study answers, and with which of its claims (the beginning of its text)."""

    text: str
    source: str
    study: str
    claim: str


# Filled in the order of the paper: what it claims, then what its readers ask.
LINES: tuple[Line, ...] = ()


def index_page(stored: Mapping[Study, Mapping[str, Any]]) -> str:
    """Markdown. stored: findings.json of each study that was run."""
    findings = {study.name: Findings.from_json(data) for study, data in stored.items()}
    answered = [_answered(line, findings) for line in LINES]
    studies = [[f"[{s.title}]({s.name}.md)", s.question, findings[s.name].answer] for s in stored]
    parts = ["# Studies", LIMITS]
    if answered:
        parts += ["## The paper's claims, and what its readers ask"]
        parts += [markdown(["claim or question", "source", "study", "measured", "answer"], answered)]
    parts += ["## Each study in a sentence", markdown(["study", "question", "answer"], studies)]
    parts += ["```bash\ngroundprune study list\ngroundprune study misalignment --quick --limit 5\n```"]
    return "\n\n".join(parts) + "\n"


def _answered(line: Line, findings: Mapping[str, Findings]) -> list[str]:
    link = f"[{line.study}]({line.study}.md)" if line.study in findings else line.study
    claims = findings[line.study].claims if line.study in findings else []
    for claim in claims:
        if claim.text.startswith(line.claim):
            return [line.text, line.source, link, claim.measured, f"**{claim.verdict}**"]
    return [line.text, line.source, link, "not measured", "**cannot be told here**"]
