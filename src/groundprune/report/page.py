"""The report: one HTML file that holds its figures, pictures, style and script, and asks nobody for anything."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from groundprune.errors import GroundPruneError
from groundprune.evaluation.results import SAMPLES_FILE, read_rows, read_summary
from groundprune.evaluation.summary import Summary
from groundprune.report.charts import TASKS, asked, curves, headline, percent, policies, share_of
from groundprune.report.cost_charts import accuracy_over_flops
from groundprune.report.figures import FOLDER, inline_svg, write_figures
from groundprune.report.gallery import SAMPLES, Item, answer_told, choose, make_items, samples_of
from groundprune.report.headline import Shown, choose_shown
from groundprune.report.heatmaps import heatmaps
from groundprune.report.kept_maps import kept_maps
from groundprune.report.notes import cost_notes, notes
from groundprune.report.story import ORDER, SAMPLES_SHOWN, tell
from groundprune.report.style import TRUTH_LOOK, Look, look_of
from groundprune.report.tables import costs, grids
from groundprune.report.writing import replacing

REPORT_FILE = "report.html"


@dataclass(frozen=True)
class Gallery:
    """answered: how many samples could have been chosen. missing: sentences on what could not be shown."""

    items: list[Item] = field(default_factory=list)
    answered: int = 0
    missing: list[str] = field(default_factory=list)


def write_report(
    folder: str | Path,
    pruner: str | None = None,
    budget: str | None = None,
    samples: int = SAMPLES,
) -> Path:
    """Make report.html and figures/ in a folder of results, from what is stored there; returns the page's path.

    pruner, budget: whose bars and samples stand in front (see `choose_shown`). samples: at most so many in the
    gallery, drawn again where they are scenes. No model runs; what is not stored the page says, and shows the rest.

    Raises GroundPruneError where the folder holds no results, or cannot be written.
    """
    folder = Path(folder)
    summary = read_summary(folder)
    shown = choose_shown(summary, pruner, budget)
    gallery = _gallery(folder, summary, shown, samples)
    page = render_report(summary, shown, gallery)
    path = folder / REPORT_FILE
    try:
        with replacing(path) as draft:
            draft.write_text(page, encoding="utf-8", newline="\n")
        write_figures(summary, shown, folder / FOLDER)
    except OSError as error:
        raise GroundPruneError(f"cannot write the report to {folder}: {error.strerror or error}") from error
    return path


def render_report(summary: Summary, shown: Shown, gallery: Gallery) -> str:
    """The page; a function of its arguments alone."""
    environment = Environment(
        loader=PackageLoader("groundprune.report"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    script, style = (Path(__file__).parent / "templates" / name for name in ("report.js", "report.css"))
    code = script.read_text(encoding="utf-8")
    over = accuracy_over_flops(summary, shown)
    story = tell(summary, shown)
    return environment.get_template("report.html").render(
        summary=summary,
        shown=shown,
        gallery=gallery,
        story=story,
        first=gallery.items[:SAMPLES_SHOWN],
        first_curves=[(TASKS[kind], Markup(inline_svg(chart))) for kind, chart in story.curves.items()],
        order=ORDER,
        answer_told=answer_told,
        tasks={kind: TASKS[kind] for kind in asked(summary.settings)},
        share_of=share_of,
        percent=percent,
        # Ours, and drawings whose text is escaped: all that goes into the page as it is.
        script=Markup(code),
        script_hash=base64.b64encode(hashlib.sha256(code.encode()).digest()).decode("ascii"),
        style=Markup(style.read_text(encoding="utf-8")),
        headline=Markup(inline_svg(headline(shown))),
        curves={kind: [(c.title, Markup(inline_svg(c))) for c in charts] for kind, charts in curves(summary).items()},
        heatmaps=[(chart.title, Markup(inline_svg(chart))) for chart in heatmaps(summary)],
        policies=policies(summary),
        layers=_layers(shown),
        numbers={name: number for number, name in enumerate(_layers(shown))},
        tables=grids([summary]),
        notes=notes([summary]),
        costs=costs([summary]),
        costs_drawn=None if over is None else (over.title, Markup(inline_svg(over))),
        costs_notes=cost_notes([summary]),
        behind=_behind(summary),
        types=_types(shown),
        settings=_settings(summary),
    )


def _gallery(folder: Path, summary: Summary, shown: Shown, limit: int) -> Gallery:
    """Never raises for what a picture lacks: the numbers of the report need neither model nor images."""
    path = folder / SAMPLES_FILE
    if not path.exists():
        return Gallery(
            missing=[f"No samples are shown: the folder holds no {SAMPLES_FILE}, which names the answers."]
        )
    rows = read_rows(path)
    everything = choose(rows, shown, len(rows))
    ids = everything[: max(0, limit)]
    if not ids:
        return Gallery([], len(everything))
    try:
        samples = samples_of(summary.run)
    except GroundPruneError as error:
        return Gallery([], len(everything), [f"No samples are shown: {_sentence(error)}"])
    ids = [id for id in ids if id in samples]
    kept: dict[str, Any] = {}
    missing: list[str] = []
    if shown.pruned is not None:
        try:
            kept = kept_maps(summary.run, rows, shown.pruned, [samples[id] for id in ids])
        except GroundPruneError as error:
            missing.append(f"Kept tokens are not shaded: {_sentence(error)}")
    return Gallery(make_items(ids, rows, shown, samples, kept), len(everything), missing)


def _sentence(error: Exception) -> str:
    return str(error).rstrip(".") + "."


def _layers(shown: Shown) -> dict[str, Look]:
    """The boxes of a picture, the lowest first."""
    answers = {name: look_of(name) for name in shown.results}
    return {"ground truth": TRUTH_LOOK, **answers}


def _behind(summary: Summary) -> list[str]:
    """Settings that have fewer answers than the one with the most."""
    asked = [r for r in summary.settings if r.setting.id not in summary.skipped]
    counts = {r.setting.label: sum(task.total.n for task in r.tasks.values()) for r in asked}
    most = max(counts.values(), default=0)
    return [f"{label} ({count} of {most})" for label, count in counts.items() if count < most]


def _types(shown: Shown) -> dict[str, list[str]]:
    """The types of question by kind, as the results hold them."""
    return {
        kind: list(dict.fromkeys(t for result in shown.results.values() for t in getattr(result, kind).types))
        for kind in asked(shown.results.values())
    }


def _settings(summary: Summary) -> list[tuple[str, str]]:
    """What made the numbers, one line each, the command first."""
    about, run = summary.about, summary.run
    first = [(key, about[key]) for key in ("command", "date", "device", "batch_size") if key in about]
    last = [(key, value) for key, value in about.items() if key not in dict(first) and key != "skipped"]
    told = [(key.replace("_", " "), _flat(value)) for key, value in [*first, *run.items(), *last]]
    return [(key, value) for key, value in told if value]


def _flat(value: Any) -> str:
    if isinstance(value, Mapping):
        return "; ".join(f"{key}: {_flat(entry)}" for key, entry in value.items())
    if isinstance(value, list):
        return " | ".join(map(_flat, value))
    return "" if value is None else str(value)
