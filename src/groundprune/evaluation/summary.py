"""What a comparison found: accuracies with intervals, made from result rows by arithmetic alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from groundprune.data.samples import KINDS
from groundprune.errors import GroundPruneError
from groundprune.evaluation.costs import Costs, Timing
from groundprune.evaluation.specs import Setting
from groundprune.evaluation.statistics import paired_difference, wilson

FORMAT = 1  # of summary.json and samples.jsonl; goes up when an older reader would misread them
_LATER = ("seg", "point")  # kinds that older files lack
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Share:
    """correct of n; interval: 95% Wilson. Shares are 0..1."""

    n: int
    correct: int
    accuracy: float
    interval: tuple[float, float]

    @staticmethod
    def of(rows: Sequence[Row]) -> Share:
        n, correct = len(rows), sum(row["correct"] for row in rows)
        return Share(n, correct, correct / n if n else 0.0, wilson(correct, n))


@dataclass(frozen=True)
class Task:
    """One kind of question under one setting.

    Attributes:
        total: of all.
        mean_iou: of boxes or of masks (mIoU); None for vqa and point.
        malformed: answers without a box, an outline or a point, which count as wrong, with an IoU of 0; None for vqa.
        types: the share per type of question.
        overall_iou: of seg: pixels in both masks over pixels in either, all samples together (oIoU).
    """

    total: Share
    mean_iou: float | None
    malformed: int | None
    types: dict[str, Share]
    overall_iou: float | None = None

    @staticmethod
    def of(rows: Sequence[Row], kind: str) -> Task:
        types = {t: Share.of([r for r in rows if r["type"] == t]) for t in sorted({r["type"] for r in rows})}
        total = Share.of(rows)
        if kind == "vqa":
            return Task(total, None, None, types)
        if kind == "point":
            return Task(total, None, sum(r["point"] is None for r in rows), types)
        mean = round(sum(r["iou"] for r in rows) / len(rows), 6) if rows else None
        if kind == "rec":
            return Task(total, mean, sum(r["box"] is None for r in rows), types)
        both, either = (sum(r["pixels"][key] for r in rows) for key in ("both", "either"))
        overall = round(both / either, 6) if either else None
        return Task(total, mean, sum(not r["pixels"]["outlined"] for r in rows), types, overall)


@dataclass(frozen=True)
class SettingResult:
    """kept: visual tokens that the LLM read, mean per prompt; None before the first answer.

    costs: None where a row does not say them, as those of older versions do not.
    """

    setting: Setting
    kept: float | None
    rec: Task
    vqa: Task
    seg: Task
    point: Task
    costs: Costs | None = None

    @property
    def tasks(self) -> dict[str, Task]:
        """By kind of question."""
        return {kind: getattr(self, kind) for kind in KINDS}

    @staticmethod
    def of(setting: Setting, rows: Sequence[Row]) -> SettingResult:
        kept = round(sum(r["kept"] for r in rows) / len(rows), 4) if rows else None
        tasks = {kind: Task.of([r for r in rows if r["kind"] == kind], kind) for kind in KINDS}
        return SettingResult(setting, kept, **tasks, costs=Costs.of(rows))


@dataclass(frozen=True)
class Difference:
    """Accuracy under preserved minus under reassigned positions, on the same n samples of one kind.

    Attributes:
        pruner: in text.
        budget: "0.5" or "64 tokens".
        kind: "rec", "vqa", "seg" or "point".
        n: how many samples.
        difference: of accuracies.
        interval: 95%, paired bootstrap.
    """

    pruner: str
    budget: str
    kind: str
    n: int
    difference: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class Summary:
    """What a comparison found.

    Attributes:
        run: what must be equal for rows to belong together.
        about: command, versions, date, device and batch size.
        complete: whether every setting has an answer for every sample.
        settings: in the order in which they were run.
        differences: preserved minus reassigned.
        timing: by id of setting, and of the images as `ENCODING`: seconds, and of how many samples. Empty of older
            versions.
    """

    run: dict[str, Any]
    about: dict[str, Any]
    complete: bool
    settings: list[SettingResult]
    differences: list[Difference] = field(default_factory=list)
    timing: dict[str, Timing] = field(default_factory=dict)

    @property
    def skipped(self) -> dict[str, str]:
        return self.about.get("skipped", {})

    def result(self, setting_id: str) -> SettingResult | None:
        return next((r for r in self.settings if r.setting.id == setting_id), None)

    def to_json(self) -> dict[str, Any]:
        whole = self.result(Setting().id)
        unpruned = None if whole is None else whole.costs
        settings = [{"id": r.setting.id, "label": r.setting.label, **_plain(r, unpruned)} for r in self.settings]
        return {"format": FORMAT, **asdict(self), "settings": settings}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Summary:
        """Raises GroundPruneError where `data` is no summary of this format."""
        try:
            if data["format"] != FORMAT:
                raise GroundPruneError(f"format {data['format']!r} is not readable here (known: {FORMAT})")
            settings = [_setting_result(entry) for entry in data["settings"]]
            differences = [Difference(**{**d, "interval": tuple(d["interval"])}) for d in data["differences"]]
            timing = {name: Timing(**found) for name, found in data.get("timing", {}).items()}
            return Summary(data["run"], data["about"], data["complete"], settings, differences, timing)
        except (KeyError, TypeError) as error:
            raise GroundPruneError(f"not a summary of a comparison ({type(error).__name__}: {error})") from error


def summarize(
    run: dict[str, Any], about: dict[str, Any], settings: Sequence[Setting], rows: Iterable[Row], samples: int
) -> Summary:
    """What rows say, by arithmetic alone; those of settings that are not asked for are left out.

    Args:
        run: see `Summary`.
        about: see `Summary`.
        settings: what is asked for.
        rows: in any order.
        samples: how many answers each setting should have.

    Returns:
        Summary.
    """
    of: dict[str, list[Row]] = {setting.id: [] for setting in settings}
    for row in rows:
        if row["setting"] in of:
            of[row["setting"]].append(row)
    results = [SettingResult.of(setting, of[setting.id]) for setting in settings]
    skipped = about.get("skipped", {})
    complete = all(len(found) == samples for id, found in of.items() if id not in skipped)
    return Summary(run, about, complete, results, _differences(settings, of, int(run.get("seed", 0))))


def _differences(settings: Sequence[Setting], of: Mapping[str, list[Row]], seed: int) -> list[Difference]:
    found: list[Difference] = []
    for setting in settings:
        other = replace(setting, positions="reassigned").id
        if setting.pruner is None or setting.positions != "preserved" or other not in of:
            continue
        against = {row["sample"]: row["correct"] for row in of[other]}
        for kind in KINDS:
            rows = [r for r in of[setting.id] if r["kind"] == kind and r["sample"] in against]
            # By id: the order of the rows must not matter, and a resumed run has another one.
            rows.sort(key=lambda row: row["sample"])
            pairs = [r["correct"] for r in rows], [against[r["sample"]] for r in rows]
            if rows:
                mean, low, high = paired_difference(*pairs, seed=seed)
                budget = setting.budget or ""
                found.append(Difference(setting.pruner, budget, kind, len(rows), mean, (low, high)))
    return found


def _share(data: Mapping[str, Any]) -> Share:
    return Share(data["n"], data["correct"], data["accuracy"], tuple(data["interval"]))


def _plain(result: SettingResult, unpruned: Costs | None) -> dict[str, Any]:
    """Outlines and points are named where there are any: files of other runs stay as they always were."""
    found = asdict(result)
    found["costs"] = None if result.costs is None else result.costs.to_json(unpruned)
    for kind, task in result.tasks.items():
        if kind != "seg":
            del found[kind]["overall_iou"]
        if kind in _LATER and not task.total.n:
            del found[kind]
    return found


def _setting_result(data: Mapping[str, Any]) -> SettingResult:
    tasks = {
        kind: Task(
            _share(task["total"]),
            task["mean_iou"],
            task["malformed"],
            {name: _share(share) for name, share in task["types"].items()},
            task.get("overall_iou"),
        )
        for kind in KINDS
        if (task := data.get(kind) if kind in _LATER else data[kind]) is not None
    }
    return SettingResult(
        Setting(**data["setting"]),
        data["kept"],
        **{kind: tasks.get(kind) or Task.of([], kind) for kind in KINDS},
        costs=Costs.from_json(data.get("costs")),
    )
