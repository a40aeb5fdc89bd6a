"""The index of all studies: each claim of the paper and each question of its readers, answered in a line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from groundprune.studies.page import markdown
from groundprune.studies.study import UNTOLD, Claim, Findings, Study

LIMITS = (
    "Figures are of the pocket model, in both of its trainings: 2 million parameters, drawn scenes of coloured "
    "shapes, 144 visual tokens. They show a mechanism and its size in that model, not what a large model loses on "
    "photographs; every study also runs on a checkpoint and data of one's own (`--model`, `--data`). *Holds* means: "
    "in both trainings the 95% interval excludes zero, or, of a claim of no difference, lies within a margin "
    "that was set beforehand (1 point of accuracy, 2% of time). What training decides is asked of smaller models "
    "(64 visual tokens, simpler questions) that differ in one thing each, three trainings of each; there intervals "
    "are over trainings."
)


@dataclass(frozen=True)
class Line:
    """study, claim: which study answers, and with which of its claims (the beginning of its text)."""

    text: str
    source: str
    study: str
    claim: str

    def answer(self, findings: Findings) -> Claim:
        """The claim among those of its study."""
        return next(claim for claim in findings.claims if claim.text.startswith(self.claim))


# The paper's claims first, then what its readers ask, then what others' work says of it.
LINES = (
    Line(
        "Pruning with reassigned ids takes grounding",
        "56.14 to 15.34, 88.69 to 2.73",
        "sweep",
        "50% dropped, ids reassigned: REC collapses",
    ),
    Line("VQA hardly moves", "abstract", "sweep", "50% dropped, ids reassigned: VQA does not move"),
    Line(
        "The order of the ids matters, with nothing dropped",
        "permuted ids",
        "misalignment",
        "ids in another order break grounding",
    ),
    Line(
        "The values alone do not: a common shift is harmless",
        "the paper: shifted ids break grounding",
        "misalignment",
        "one common shift of all ids changes nothing",
    ),
    Line(
        "Moved ids alone cost what pruning with moved ids costs",
        "the cause",
        "one-percent",
        "moved ids cost REC as much",
    ),
    Line(
        "1% of the tokens are enough",
        "MiniGPT-v2, RefCOCO",
        "one-percent",
        "1% dropped, ids reassigned: REC collapses",
    ),
    Line(
        "Preserving the ids brings grounding back",
        "51.42 of 56.14, 68.91 of 88.69",
        "sweep",
        "50% dropped: preserving the ids gives REC back",
    ),
    Line(
        "... to nine tenths of it",
        "91.6% (CLS-visual, unverified)",
        "sweep",
        "50% dropped, ids preserved: 90% of unpruned REC is left, cls-visual",
    ),
    Line(
        "Of what VQA loses nothing is due to the ids",
        "GQA under GAP: less than a point lost",
        "sweep",
        "of that loss of VQA none is due to the ids",
    ),
    Line("It costs no time", "abstract", "overhead", "preserved ids cost no prefill time"),
    Line("It costs no memory", "abstract", "overhead", "the KV cache holds exactly as many bytes"),
    Line("The tower's first layer holds positions", "98.37% in CLIP-L", "probe", "the tower's first layer tells"),
    Line(
        "The layer that feeds the LLM does not", "2.61% in CLIP-L", "probe", "the layer that feeds the LLM no longer"
    ),
    Line(
        "At high ratios pruning is sometimes above the unpruned model",
        "75 and 90% removed",
        "filter",
        "a pruner is above the unpruned model",
    ),
    Line(
        "Does it hold for spatial questions?",
        "question 1",
        "spatial-vqa",
        "of that, moved ids alone (reassigned less preserved) cost spatial questions more",
    ),
    Line(
        "Does it hold for segmentation?",
        "question 1",
        "segmentation",
        "half dropped, ids reassigned: outlines collapse",
    ),
    Line(
        "Would explicit coordinates in the tower make ids needless?",
        "question 2",
        "sources",
        "explicit coordinates added before the projector make",
    ),
    Line(
        "Is no overhead true at every ratio and size?",
        "question 3",
        "overhead",
        "preserved ids cost no time per token",
    ),
    Line(
        "Does the lost 10% go with what is dropped of the target?",
        "question 4",
        "residual",
        "keeping all of the target's tokens gives points back",
    ),
    Line("... or with what is kept beside it?", "question 4", "residual", "beside a whole target a random rest"),
    Line("Is pruning a spatial filter of noise?", "question 5", "filter", "dropping only distractors raises"),
    Line(
        "Would a tower that keeps positions need it less?",
        "question 6",
        "sources",
        "a tower with learned positions that its last layers are trained to keep needs",
    ),
    Line(
        "Coverage of the target is a second cause",
        "FEATHER, IVC-Prune, Nuwa",
        "cross",
        "what is not covered of the target costs too",
    ),
    Line("Ids and selection interact", "the cross nobody has published", "cross", "ids and selection interact"),
    Line(
        "Stretched ids are worse than preserved ones", "Nuwa", "sweep", "stretched ids do worse than preserved ones"
    ),
    Line(
        "The box follows the ids of the target",
        "the mechanism",
        "mechanism",
        "the box goes where the ids of the target's tokens go",
    ),
    Line("A few wrong ids are enough", "the mechanism", "mechanism", "fewer than"),
)


def index_page(stored: Mapping[Study, Mapping[str, Any]]) -> str:
    """Markdown. stored: findings.json of each study that was run."""
    findings = {study.name: Findings.from_json(data) for study, data in stored.items()}
    answered = [_answered(line, findings) for line in LINES]
    studies = [[f"[{s.title}]({s.name}.md)", s.question, findings[s.name].answer] for s in stored]
    parts = ["# Studies", LIMITS]
    if answered:
        parts += ["## The paper's claims, and what its readers ask"]
        parts += [markdown(["claim or question", "source", "study", "asked here", "measured", "verdict"], answered)]
    parts += ["## Each study in a sentence", markdown(["study", "question", "answer"], studies)]
    parts += ["```bash\ngroundprune study list\ngroundprune study misalignment --quick --limit 5\n```"]
    return "\n\n".join(parts) + "\n"


def _answered(line: Line, findings: Mapping[str, Findings]) -> list[str]:
    if line.study not in findings:
        return [line.text, line.source, "-", "-", "needs models that are trained apart", f"**{UNTOLD}**"]
    claim = line.answer(findings[line.study])
    return [
        line.text, line.source, f"[{line.study}]({line.study}.md)", claim.text, claim.measured,
        f"**{claim.verdict}**",
    ]  # fmt: skip
