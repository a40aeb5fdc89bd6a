"""Stored runs by outcome: which samples pruning lost, and which of them preserved ids bring back."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from groundprune.errors import GroundPruneError
from groundprune.evaluation.results import SAMPLES_FILE, SUMMARY_FILE, read_rows, read_summary
from groundprune.evaluation.specs import MAIN_POSITIONS
from groundprune.evaluation.summary import Summary
from groundprune.pruners.spec import short_name
from groundprune.report.gallery import Item, choose, make_items, samples_of
from groundprune.report.headline import Shown, choose_shown
from groundprune.report.kept_maps import kept_maps

PAGE = 8  # samples
LIMIT = 300  # samples of a run that can be paged through, taken in turn from every type and outcome
Right = Mapping[str, bool]  # by "unpruned" and by position policy; of a setting that did not run there is no entry

# A missing setting makes an outcome impossible rather than likely.
OUTCOMES: dict[str, Callable[[Right], bool]] = {
    "all": lambda right: True,
    "recovered by preserving": lambda right: right.get("preserved", False) and not right.get("reassigned", True),
    "lost by pruning": lambda right: right.get("unpruned", False) and not right.get("preserved", True),
    "lost by preserving": lambda right: right.get("reassigned", False) and not right.get("preserved", True),
    "right under all": lambda right: all(right.values()),
    "wrong under all": lambda right: not any(right.values()),
}


@dataclass(frozen=True, eq=False)
class StoredRun:
    """One pruner and budget of a run. counts: by outcome, over all that was answered. missing: sentences."""

    folder: Path
    summary: Summary
    shown: Shown
    items: list[Item]
    answered: int
    counts: dict[str, int]
    missing: list[str]

    @staticmethod
    def read(folder: Path, choice: str | None = None) -> StoredRun:
        """choice: one of `choices_of`. Raises GroundPruneError where the folder holds no results, or not these."""
        summary = read_summary(folder)
        pruner, budget = choices_of(summary).get(choice or "", (None, None))
        shown = choose_shown(summary, pruner, budget)
        path = folder / SAMPLES_FILE
        if not path.is_file():
            raise GroundPruneError(f"{folder.name} holds no {SAMPLES_FILE}: its samples are not stored")
        rows = read_rows(path)
        everything = choose(rows, shown, len(rows))
        rights = [
            {
                n: bool(rows[r.setting.id, id]["correct"])
                for n, r in shown.results.items()
                if (r.setting.id, id) in rows
            }
            for id in everything
        ]
        counts = {name: sum(map(fits, rights)) for name, fits in OUTCOMES.items()}
        ids, missing = everything[:LIMIT], []
        samples = samples_of(summary.run, set(ids))
        kept = {}
        if shown.pruned is not None:
            try:
                kept = kept_maps(summary.run, rows, shown.pruned, samples.values())
            except GroundPruneError as error:
                missing.append(f"Kept tokens are not shaded: {str(error).rstrip('.')}.")
        items = make_items([id for id in ids if id in samples], rows, shown, samples, kept)
        return StoredRun(folder, summary, shown, items, len(everything), counts, missing)

    def of(self, outcome: str) -> list[Item]:
        """Raises GroundPruneError for an unknown outcome."""
        if outcome not in OUTCOMES:
            raise GroundPruneError(f"unknown outcome {outcome!r} (known: {', '.join(OUTCOMES)})")
        fits = OUTCOMES[outcome]
        return [item for item in self.items if fits({a.name: a.correct for a in item.answers})]


def choices_of(summary: Summary) -> dict[str, tuple[str, str]]:
    """The pruners and budgets of a run, "cls-visual, keep 0.5", each once."""
    found = {}
    for setting in (r.setting for r in summary.settings):
        if setting.pruner and setting.budget and setting.positions in MAIN_POSITIONS:
            told = setting.budget if setting.tokens is not None else f"keep {setting.budget}"
            found[f"{short_name(setting.pruner)}, {told}"] = (setting.pruner, setting.budget)
    return found


class Shelf:
    """Result folders below `roots`, the last one opened; threads take turns."""

    def __init__(self, *roots: Path):
        self.roots = [root.resolve() for root in roots]
        self._lock = threading.Lock()
        self._last: tuple[tuple[Path, str | None, int], StoredRun] | None = None

    def open(self, folder: str, choice: str | None = None) -> StoredRun:
        """folder: absolute, or from the first of the roots.

        Raises GroundPruneError where that is no result folder, or lies outside of the roots; which of the two it is
        the message does not say.
        """
        if not folder.strip():
            raise GroundPruneError("give a folder of results, what --out of `groundprune compare` named")
        path = self._inside(folder.strip())
        if path is None:
            below = " or ".join(map(str, self.roots))
            raise GroundPruneError(f"{folder.strip()!r} is no folder of results below {below}")
        with self._lock:
            # A run that goes on writes this file anew after every setting.
            key = (path, choice, (path / SUMMARY_FILE).stat().st_mtime_ns)
            if self._last is None or self._last[0] != key:
                self._last = None  # what is let go of makes room for what comes
                self._last = (key, StoredRun.read(path, choice))
            return self._last[1]

    def _inside(self, folder: str) -> Path | None:
        try:
            path = (self.roots[0] / folder).resolve()
            inside = any(path.is_relative_to(root) for root in self.roots)
            return path if inside and (path / SUMMARY_FILE).is_file() else None
        except (OSError, ValueError, RuntimeError):  # too long, a NUL, a circle of links
            return None
