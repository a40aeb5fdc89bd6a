"""The studies as the repository keeps them: `python -m tools.docs.studies RUNS [HOME]`, in the root of a checkout.

RUNS is the --out folder of `groundprune study all`. Of every run HOME, by default results/studies, keeps summary and
measurements as they are and the columns of the rows that findings need, compressed. docs/studies gets the pages and
figures of results/studies; what results/smol/studies holds is a table of docs/smol.md.
"""

from __future__ import annotations

import json
import lzma
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from groundprune.errors import GroundPruneError
from groundprune.evaluation.results import SAMPLES_FILE, SUMMARY_FILE
from groundprune.evaluation.rows import read_rows
from groundprune.report.figures import save_figure
from groundprune.studies.index import index_page
from groundprune.studies.page import page
from groundprune.studies.parts.drawing import drawn
from groundprune.studies.running import FINDINGS, MEASURED, PACKED, conclusion, models_in, runs_in
from groundprune.studies.study import Study, studies

RESULTS, PAGES = Path("results") / "studies", Path("docs") / "studies"
_COLUMNS = ("setting", "sample", "kind", "type", "correct", "iou", "kept")


def pack(study: Study, source: Path, target: Path) -> None:
    """One model's run, from the folder of a run to that of the repository."""
    target.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source / SUMMARY_FILE, target / SUMMARY_FILE)
    if (source / MEASURED).is_file():
        shutil.copyfile(source / MEASURED, target / MEASURED)
    if (source / SAMPLES_FILE).is_file() and (source / SAMPLES_FILE).stat().st_size:
        rows = sorted(read_rows(source / SAMPLES_FILE).values(), key=lambda row: (row["setting"], row["sample"]))
        lines = (json.dumps({key: row[key] for key in (*_COLUMNS, *study.columns) if key in row}) for row in rows)
        with lzma.open(target / PACKED, "wt", encoding="utf-8", preset=9) as file:
            file.writelines(f"{line}\n" for line in lines)


def keep(runs: Path, home: Path) -> list[Study]:
    """Every study's run that is in `runs`, below `home`. Raises GroundPruneError where there is none."""
    found = [study for study in studies().values() if (runs / study.name / FINDINGS).is_file()]
    if not found:
        raise GroundPruneError(f"{runs} holds no study that was run to its end")
    for study in found:
        folder = home / study.name
        for name in models_in(runs / study.name):
            pack(study, runs / study.name / name, folder / name)
        text = json.dumps(conclusion(study, folder), indent=1, ensure_ascii=False, allow_nan=False)
        (folder / FINDINGS).write_text(text + "\n", encoding="utf-8")
    return found


def store(runs: Path, root: Path) -> None:
    """`keep` in results/studies, and figures and pages in docs/studies. Raises GroundPruneError likewise."""
    for study in keep(runs, root / RESULTS):
        (root / PAGES).mkdir(parents=True, exist_ok=True)
        save_figure(drawn(study, runs_in(root / RESULTS / study.name)), root / PAGES / f"{study.name}.svg")
    for file, text in study_pages(root).items():
        file.write_text(text, encoding="utf-8")


def study_pages(root: Path) -> dict[Path, str]:
    """What the pages of docs/studies should hold, made of results/studies; none where it holds none."""
    stored = kept(root / RESULTS)
    found = {root / PAGES / f"{s.name}.md": page(s, data, f"{s.name}.svg") for s, data in stored.items()}
    if stored:
        found[root / PAGES / "index.md"] = index_page(stored)
    return found


def kept(home: Path) -> dict[Study, Mapping[str, Any]]:
    """findings.json of each study that `home` holds."""
    files = {study: home / study.name / FINDINGS for study in studies().values()}
    return {study: json.loads(file.read_text("utf-8")) for study, file in files.items() if file.is_file()}


if __name__ == "__main__":
    runs, *home = map(Path, sys.argv[1:])
    keep(runs, *home) if home else store(runs, Path())
