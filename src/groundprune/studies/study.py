"""What a study is: a question of the paper, what is run for it, and what the stored rows then say.

A study's file holds one subclass of `Study`, which is found by itself. `findings` and `draw` are functions of what is
stored alone: a page can be made anew without a model.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

from matplotlib.figure import Figure

from groundprune.data.sources import DataSet
from groundprune.errors import unknown
from groundprune.evaluation.interventions import Intervention
from groundprune.evaluation.specs import Setting
from groundprune.evaluation.summary import Share

HOLDS, FAILS, UNTOLD = "holds", "does not hold", "cannot be told here"
Row = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Run:
    """What one model gave.

    Attributes:
        model: what results call it.
        rows: of samples.jsonl, see `groundprune.evaluation.results`.
        measured: what `Study.measure` gave, by step.
        skipped: by id of setting, why the model could not run it.
    """

    model: str
    rows: Sequence[Row]
    measured: Mapping[str, Any] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)

    @functools.cached_property
    def _of(self) -> dict[str, list[Row]]:
        found: dict[str, list[Row]] = {}
        for row in sorted(self.rows, key=lambda row: row["sample"]):  # a resumed run has another order
            found.setdefault(row["setting"], []).append(row)
        return found

    def answers(self, setting: Setting, kind: str, types: Sequence[str] | None = None) -> list[Row]:
        """The rows of a setting, by sample. kind: "rec" or "vqa". types: of question; None = all."""
        mine = self._of.get(setting.id, [])
        return [r for r in mine if r["kind"] == kind and (types is None or r["type"] in types)]

    def share(self, setting: Setting, kind: str, types: Sequence[str] | None = None) -> Share:
        """Right answers of a setting; of n = 0 where it was not run."""
        return Share.of(self.answers(setting, kind, types))


@dataclass(frozen=True)
class Claim:
    """One line of what was found.

    Attributes:
        text: the claim, or the question as a claim.
        paper: what the paper says of it, with number and section; or who asks.
        measured: in words and numbers, with intervals.
        verdict: HOLDS, FAILS or UNTOLD.
    """

    text: str
    paper: str
    measured: str
    verdict: str


@dataclass(frozen=True)
class Table:
    """Cells are ready to print."""

    title: str
    header: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class Findings:
    """answer: the study's, in one sentence. notes: what limits it."""

    answer: str
    claims: list[Claim]
    tables: list[Table] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Findings:
        claims, tables = [Claim(**c) for c in data["claims"]], [Table(**t) for t in data["tables"]]
        return Findings(data["answer"], claims, tables, list(data["notes"]))


class Bench:
    """What `Study.measure` works with.

    Attributes:
        model: what `gp.load` gives.
        processor: likewise.
        data: what the study asks.
        quick: whether little is to be measured.
        seed: of what is drawn at random.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        data: DataSet,
        quick: bool,
        seed: int = 0,
        stored: dict[str, Any] | None = None,
        save: Callable[[dict[str, Any]], None] = lambda steps: None,
    ):
        self.model, self.processor, self.data, self.quick, self.seed = model, processor, data, quick, seed
        self.steps, self._save = stored if stored is not None else {}, save

    def step(self, name: str, work: Callable[[], Any]) -> Any:
        """What `work()` gives, as JSON holds it; on disk when this returns, and found there by a later run."""
        if name not in self.steps:
            self.steps[name] = work()
            self._save(self.steps)
        return self.steps[name]


class Study:
    """Base of all studies.

    Attributes:
        number: its place among the studies.
        name: on the command line, and of its page.
        title: of its page.
        question: what it asks.
        paper: what the paper (GAP, arXiv 2506.21873) says, with number and section.
        samples: expressions, and as many questions, of a whole run and of a quick one.
        kinds: which kinds of samples it asks.
        columns: of its rows that `findings` and `draw` read beside setting, sample, kind, type, correct, iou, kept.
        interventions: that its settings name.
        trained: whether its models are trained for it alone, from a checkout (`python -m tools.variants`).
    """

    number: ClassVar[int]
    name: ClassVar[str]
    title: ClassVar[str]
    question: ClassVar[str]
    paper: ClassVar[str]
    samples: ClassVar[tuple[int, int]] = (300, 60)
    kinds: ClassVar[tuple[str, ...]] = ("rec", "vqa")
    columns: ClassVar[tuple[str, ...]] = ()
    interventions: ClassVar[Mapping[str, Intervention]] = {}
    trained: ClassVar[bool] = False

    def settings(self, quick: bool) -> list[Setting]:
        """What the model answers under; nothing by default."""
        return []

    def asked(self, data: DataSet) -> DataSet:
        """What is asked of the data that were opened; by default all of it, as it is."""
        return data

    def measure(self, bench: Bench) -> None:
        """What is measured beside answers, step by step (`Bench.step`); nothing by default."""

    def findings(self, runs: Sequence[Run]) -> Findings:
        """What the runs say, of one or more models; settings may be missing from them."""
        raise NotImplementedError

    def draw(self, runs: Sequence[Run]) -> Figure:
        """Its figure; `groundprune.studies.parts.drawing` sets the style."""
        raise NotImplementedError


@functools.cache
def studies() -> dict[str, Study]:
    """All studies by name, in the order of their numbers."""
    import groundprune.studies as home

    for module in pkgutil.iter_modules(home.__path__):  # not what they are made of, `parts`
        importlib.import_module(f"{home.__name__}.{module.name}")
    found = [
        cls() for cls in _below(Study) if cls.__module__.startswith(home.__name__ + ".") and hasattr(cls, "number")
    ]
    return {study.name: study for study in sorted(found, key=lambda study: study.number)}


def _below(cls: type[Study]) -> list[type[Study]]:
    return [found for below in cls.__subclasses__() for found in (below, *_below(below))]


def study_of(name: str, also: Sequence[str] = ()) -> Study:
    """The study of a name. also: what else a caller takes. Raises GroundPruneError, with the nearest, for another."""
    if name not in studies():
        raise unknown("study", name, [*studies(), *also])
    return studies()[name]
