"""The rows of one process of several: in a file of its own until the first process has them in samples.jsonl."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from groundprune.evaluation.disk import close, writing
from groundprune.evaluation.processes import Ranks

if TYPE_CHECKING:
    from groundprune.evaluation.results import Results


def part_files(folder: Path) -> list[Path]:
    """Those that processes left in a folder, or are writing."""
    return sorted(folder.glob("samples.rank*.jsonl"))


def lines(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as they stand in a file."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


class Part:
    """What this process answered and the first one does not hold yet; a context manager.

    Args:
        folder: that of the results, which exists; None = in memory alone.
        ranks: all processes.

    Raises:
        GroundPruneError: the file cannot be written.
    """

    def __init__(self, folder: str | Path | None, ranks: Ranks):
        self.folder, self.ranks = None if folder is None else Path(folder), ranks
        self.rows: list[dict[str, Any]] = []
        self._refused: dict[str, tuple[int, str]] = {}  # by id of setting: the batch that refused, and why
        self._file: TextIO | None = None
        if self.folder is not None:
            with writing(self.folder):
                path = self.folder / f"samples.rank{ranks.rank}.jsonl"
                self._file = path.open("a", encoding="utf-8", newline="\n")
                self._file.truncate(0)

    def __enter__(self) -> Part:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """The file goes, unless it holds what the first process has not taken."""
        if self._file is not None:
            close(self._file)
            if not self.rows:
                Path(self._file.name).unlink(missing_ok=True)
            self._file = None

    def add(self, rows: Sequence[dict[str, Any]]) -> None:
        """Keep rows; on disk when this returns."""
        self.rows += rows
        if self._file is not None:
            with writing(self.folder):
                self._file.write(lines(rows))
                self._file.flush()

    def refuse(self, setting: str, runner: Any, why: str) -> None:
        """A setting (its id) cannot be run, as the batch shows that the `Runner` is at."""
        self._refused[setting] = runner.batch, why

    def join(self, results: Results, runner: Any) -> dict[str, str]:
        """Hand all processes' rows to the first one's results; waits for all of them.

        A setting that cannot be run ends where it ends in one process: at the first batch that shows it.

        Args:
            results: of the first process; the others' are not touched.
            runner: the `Runner` that answered.

        Returns:
            By id of setting, why it cannot be run, as all processes found.
        """
        found = self.ranks.gather((self.rows, self._refused))
        first: dict[str, tuple[int, str]] = {}
        for _, refused in found:
            first |= {id: min(first.get(id, why), why) for id, why in refused.items()}
        rows = [row for some, _ in found for row in some]
        if first:
            batch = {runner.samples[i].id: at for at, some in enumerate(runner.batches()) for i in some}
            rows = [r for r in rows if r["setting"] not in first or batch[r["sample"]] < first[r["setting"]][0]]
        if self.ranks.main and rows:
            results.add(rows)
        self.ranks.gather(None)  # they are on disk
        self.rows, self._refused = [], {}
        if self._file is not None:
            with writing(self.folder):
                self._file.truncate(0)
        return {id: why for id, (_, why) in first.items()}
