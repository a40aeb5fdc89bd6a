"""The figure at the front of README: one image in three boxes, and accuracy over kept tokens, from stored results.

`python -m tools.docs.front`, in the root of a checkout, asks the pocket for the three boxes and stores them with the
image in results/front/sample.json. The expression is the first of the run in results/compare, whatever its answers
are: nobody chose it. `tools.docs.generated` draws the figure from that file and from results/compare alone.
"""

from __future__ import annotations

import html
import json
import statistics
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import groundprune as gp
from groundprune.boxes import Box, iou, make_frame
from groundprune.evaluation import Setting, Summary, read_summary
from groundprune.report.charts import TASKS, percent
from groundprune.report.gallery import data_uri, samples_of
from groundprune.report.kept_maps import border_path, dropped_path
from groundprune.report.overlay import KeptMap
from groundprune.report.story import ORDER, fall, sentences
from groundprune.report.style import Look, look_of
from groundprune.report.tables import DETAILED
from tools.docs.drawing import Theme, polyline, rect, text

RUN = Path("results") / "compare" / "seed1"
STORED = Path("results") / "front" / "sample.json"
RULE = "the first expression of the run, whatever its answers are"
FIGURES = {
    (dark, narrow): Path("docs") / "pictures" / f"front{'-narrow' * narrow}-{'dark' if dark else 'light'}.svg"
    for dark in (False, True)
    for narrow in (False, True)
}
NAMES = {"unpruned": ("unpruned", ""), "reassigned": ("renumbered", "(reassigned)"), "preserved": ("preserved", "")}
KINDS = ("rec", "vqa")
_KEEPS = ("0.25", "0.5", "0.75")  # of the table


def ask(root: Path) -> dict[str, Any]:
    """The sample by RULE and what the pocket answers about it, under the three settings that the figure shows."""
    summary = read_summary(root / RUN)
    sample = next(s for s in samples_of(summary.run).values() if s.kind == "rec")
    assert sample.box is not None
    model, processor = gp.load("pocket")
    answers, kept = {}, None
    for name in ORDER:
        setting = _setting(name)
        pruner = None if name == "unpruned" else setting.make_pruner()
        said = gp.answer(model, processor, sample.image, sample.text, pruner=pruner, positions=setting.positions)
        box = None if said.box is None else [round(edge, 2) for edge in said.box]
        fits = 0.0 if said.box is None else round(iou(said.box, sample.box), 4)
        answers[name] = {"answer": said.text, "box": box, "iou": fits}
        kept = said.kept if said.kept is not None else kept
    assert kept is not None
    return {
        "rule": RULE, "sample": sample.id, "expression": sample.text, "size": list(sample.image.size),
        "truth": list(sample.box), "model": summary.run["model"], "weights": summary.run["weights"],
        "pruner": DETAILED[0], "keep": DETAILED[1], "frame": summary.run["grounding"]["frame"], "answers": answers,
        "kept": ["".join("x" if cell else "." for cell in row) for row in kept], "image": data_uri(sample.image),
    }  # fmt: skip


def front_svg(root: Path, dark: bool, narrow: bool) -> str:
    """One of the four drawings. Raises GroundPruneError where results/compare or the stored sample is missing."""
    stored = json.loads((root / STORED).read_text(encoding="utf-8"))
    results = [read_summary(path.parent) for path in sorted((root / RUN.parent).glob("*/summary.json"))]
    theme = Theme(dark)
    width, height = (390, 905) if narrow else (880, 500)
    sentence, asked = _sentence(results), f"“{stored['expression']}”"
    parts = [_defs(stored)]
    if narrow:
        lines = textwrap.wrap(sentence, 37)
        parts += [text(16, 28 + 21 * i, line, 16, theme.ink, bold=True) for i, line in enumerate(lines)]
        parts.append(text(16, 148, asked, 15, theme.ink, bold=True))
        for index, name in enumerate(ORDER):
            parts += _panel(stored, results, theme, name, 16, 160 + 128 * index, 116, beside=True)
        parts += _curves(results, theme, [(56, 576), (238, 576)], 138, 150, 16)
        parts += [text(16, 818 + 18 * i, line, 12.5, theme.muted) for i, line in enumerate(_facts(results, 48))]
    else:
        lines = textwrap.wrap(sentence, 84)
        parts += [text(20, 30 + 24 * i, line, 16, theme.ink, bold=True) for i, line in enumerate(lines)]
        parts.append(text(20, 92, asked, 15, theme.ink, bold=True))
        for index, name in enumerate(ORDER):
            parts += _panel(stored, results, theme, name, 20 + 180 * index, 124, 164, beside=False)
        parts += _curves(results, theme, [(598, 124), (738, 124)], 120, 252, 556)
        parts += [text(20, 464 + 20 * i, line, 13, theme.muted) for i, line in enumerate(_facts(results, 122))]
    about = html.escape(describe(root))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" font-family="system-ui, -apple-system, Segoe UI, Roboto, Helvetica, Arial, sans-serif">\n'
        f"<title>What renumbered positions cost</title>\n<desc>{about}</desc>\n" + "\n".join(parts) + "\n</svg>\n"
    )


def describe(root: Path) -> str:
    """The figure in words: what an image's alternative text says."""
    results = [read_summary(path.parent) for path in sorted((root / RUN.parent).glob("*/summary.json"))]
    said = []
    for kind in KINDS:
        values = ", ".join(f"{percent(_accuracy(results, _setting(name), kind))}% {name}" for name in ORDER)
        said.append(f"{TASKS[kind]} {values}")
    return f"{'; '.join(said)}: the pocket model, cls-visual at keep 0.5."


def front_picture(root: Path) -> str:
    """What shows the figure: by the reader's theme, and on a narrow screen a narrow one."""
    phone, night = "(max-width: 600px)", "(prefers-color-scheme: dark)"
    media = {(True, True): f"{phone} and {night}", (False, True): phone, (True, False): night}
    sources = [f'  <source media="{m}" srcset="{FIGURES[key].as_posix()}">' for key, m in media.items()]
    shown = f'  <img src="{FIGURES[False, False].as_posix()}" alt="{html.escape(describe(root))}" width="880">'
    return "\n".join(["<picture>", *sources, shown, "</picture>", ""])


def front_table(root: Path) -> str:
    """The same in at most eight rows: unpruned, and three budgets under both policies, with the fall in points."""
    results = [read_summary(path.parent) for path in sorted((root / RUN.parent).glob("*/summary.json"))]
    header = ["kept tokens", "their position ids", *(f"{TASKS[kind]} | fall" for kind in KINDS)]
    rows = [f"| {' | '.join(header)} |", "| :-- | :-- | --: | --: | --: | --: |"]
    rows.append(_row(results, "all", "unpruned", Setting()))
    for keep in reversed(_KEEPS):
        for name in ORDER[1:]:
            share = f"{100 * float(keep):g}%"
            rows.append(_row(results, share, name, Setting.of(DETAILED[0], keep, positions=name)))
    asked = results[0].result(Setting().id)
    assert asked is not None
    about = (
        f"The pocket model, mean of {len(results)} trainings; {DETAILED[0]}; {asked.rec.total.n} expressions and "
        f"{asked.vqa.total.n} questions about drawn scenes,\n"
        f"{results[0].run['split']}. Percent, and points below unpruned."
    )
    return "\n".join(rows) + f"\n\n{about}\n"


def _row(results: Sequence[Summary], share: str, name: str, setting: Setting) -> str:
    cells = []
    for kind in KINDS:
        value, whole = _accuracy(results, setting, kind), _accuracy(results, Setting(), kind)
        cells += [percent(value), fall({"unpruned": whole, name: value}, name)]
    return f"| {share} | {name} | {' | '.join(cells)} |"


def _setting(name: str) -> Setting:
    return Setting() if name == "unpruned" else Setting.of(*DETAILED, positions=name)


def _accuracy(results: Sequence[Summary], setting: Setting, kind: str) -> float:
    """Of all trainings together."""
    found = [result.result(setting.id) for result in results]
    return statistics.fmean(getattr(r, kind).total.accuracy for r in found if r is not None)


def _sentence(results: Sequence[Summary]) -> str:
    """The headline, as a report says it."""
    found = {"rec": {name: _accuracy(results, _setting(name), "rec") for name in ORDER}}
    return sentences(found, *DETAILED)[0]


def _facts(results: Sequence[Summary], across: int) -> list[str]:
    """Lines of so many characters: the model, the data, how many samples, how the one above was chosen."""
    asked, pruned = (results[0].result(_setting(name).id) for name in ("unpruned", "preserved"))
    assert asked is not None
    assert pruned is not None
    return textwrap.wrap(
        f"Model: the pocket, a small LLaVA; mean of {len(results)} trainings. {DETAILED[0]} keeps {pruned.kept:g} of "
        f"{asked.kept:g} tokens. Data: drawn scenes, {results[0].run['split']}: {asked.rec.total.n} expressions "
        f"(REC, Acc@0.5), {asked.vqa.total.n} questions (VQA, exact match). Image: the run's first expression.",
        across,
    )


def _defs(stored: Mapping[str, Any]) -> str:
    width, height = stored["size"]
    grid = np.array([[cell == "x" for cell in row] for row in stored["kept"]])
    kept = KeptMap(grid, make_frame(stored["frame"], width, height))
    return (
        f'<defs><image id="picture" href="{stored["image"]}" width="{width}" height="{height}" '
        f'style="image-rendering:pixelated"/>\n<g id="dropped"><path d="{dropped_path(kept)}" fill="#000" '
        f'fill-opacity=".68"/><path d="{border_path(kept)}" stroke="#fff" stroke-opacity=".55" stroke-width=".8" '
        'fill="none"/></g></defs>'
    )


def _panel(
    stored: Mapping[str, Any], results: Sequence[Summary], theme: Theme, name: str, x: float, y: float, side: float,
    beside: bool,
) -> list[str]:  # fmt: skip
    """The image with one box, and what its setting reaches, below it or beside it."""
    answer, look = stored["answers"][name], look_of(name)
    title, aside = NAMES[name]
    colour, scale = theme.legible(name), side / max(stored["size"])
    inside = ['<use href="#picture"/>', *(['<use href="#dropped"/>'] if name != "unpruned" else [])]
    if answer["box"] is not None:
        box = Box(*answer["box"])
        inside += [rect(box, "#000", 6 / scale), rect(box, look.colour, 3 / scale)]
    hit = "hits" if answer["iou"] >= 0.5 else "misses"
    numbers = []
    for kind in KINDS:
        values = {n: _accuracy(results, _setting(n), kind) for n in ("unpruned", name)}
        lost = fall(values, name)
        said = f"{kind.upper()} {percent(values[name])}%"
        numbers.append((said, f"{lost} points" if lost else ""))
    fits = f"{hit}, IoU {answer['iou']:.2f}"
    found = [f'<g transform="translate({x:g} {y:g}) scale({scale:.6g})">{"".join(inside)}</g>']
    if beside:
        at, down = x + side + 14, y + 16
        found += [
            text(at, down, title, 15, colour, bold=True, aside=aside),
            text(at, down + 21, fits, 13, theme.muted),
        ]
        for index, (said, lost) in enumerate(numbers):
            found.append(text(at, down + 49 + 23 * index, said, 15, theme.ink, bold=True))
            found += [text(at + 104, down + 49 + 23 * index, lost, 13.5, theme.ink)] if lost else []
        return found
    found.append(text(x, y - 9, title, 12.5, colour, bold=True, aside=aside))
    found.append(text(x, y + side + 19, fits, 13, theme.muted))
    for index, (said, lost) in enumerate(numbers):
        down = y + side + 50 + 46 * index
        found.append(text(x, down, said, 19, theme.ink, bold=True))
        found += [text(x, down + 18, lost, 13, theme.ink)] if lost else []
    return found


def _curves(
    results: Sequence[Summary], theme: Theme, at: Sequence[tuple[float, float]], width: float, height: float,
    left: float,
) -> list[str]:  # fmt: skip
    """Accuracy over kept tokens, one pair of axes per kind. left: where the legend below them begins."""
    found: list[str] = []
    for (x, y), kind in zip(at, KINDS, strict=True):
        found.append(text(x, y - 9, TASKS[kind], 13, theme.ink, bold=True))
        for value in (0, 50, 100):
            level = y + height * (1 - value / 100)
            found.append(polyline([(x, level), (x + width, level)], theme.line, 1))
            if (x, y) == at[0]:
                found.append(text(x - 6, level + 4, f"{value}%", 12.5, theme.muted, anchor="end"))
        for value in (10, 50, 100):
            anchor = "end" if value == 100 else "middle"
            found.append(text(x + width * value / 100, y + height + 17, f"{value}", 12.5, theme.muted, anchor=anchor))
        whole = y + height * (1 - _accuracy(results, Setting(), kind))
        found.append(polyline([(x, whole), (x + width, whole)], theme.legible("unpruned"), 2, "2 4"))
        for name in ORDER[1:]:
            points = []
            for keep in _keeps(results):
                value = _accuracy(results, Setting.of(DETAILED[0], keep, positions=name), kind)
                points.append((x + width * float(keep), y + height * (1 - value)))
            found += _line(points, look_of(name), theme.legible(name))
    (x, y), (last, _) = at
    middle = (x + last + width) / 2
    found.append(text(middle, y + height + 37, "visual tokens kept (%)", 12.5, theme.muted, anchor="middle"))
    for index, name in enumerate(ORDER):
        said = f"{look_of(name).glyph} {name}"
        found.append(text(left + 108 * index, y + height + 60, said, 12.5, theme.legible(name), bold=True))
    return found


def _keeps(results: Sequence[Summary]) -> list[str]:
    keeps = {r.setting.keep for r in results[0].settings if r.setting.pruner == DETAILED[0] and r.setting.keep}
    return sorted(keeps, key=float)


def _line(points: Sequence[tuple[float, float]], look: Look, colour: str) -> list[str]:
    found = [polyline(points, colour, 2.4, "none" if look.line == "-" else "6 4")]
    for x, y in points:
        if look.marker == "^":
            found.append(f'<path d="M{x:.5g} {y - 5:.5g}l5 9h-10z" fill="{colour}"/>')
        else:
            found.append(f'<circle cx="{x:.5g}" cy="{y:.5g}" r="4.2" fill="{colour}"/>')
    return found


def main(arguments: Iterable[str] = ()) -> None:
    """Ask anew and store it, in a checkout, by default the current folder."""
    root = Path(*arguments)
    (root / STORED).parent.mkdir(parents=True, exist_ok=True)
    (root / STORED).write_text(json.dumps(ask(root), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
