"""Results on disk: a folder of two files.

samples.jsonl, one JSON object per setting and sample, appended and flushed batch by batch:
    setting   id of the setting: "unpruned", "cls-visual/keep=0.5/preserved", "unpruned/shifted:8"
    sample    id of the sample; kind: "rec", "vqa", "seg" or "point"; type: its type of question
    answer    the model's text, without special tokens
    correct   rec: IoU >= 0.5 (Shikra and MiniGPT-v2 in their own protocol: above 0.5); vqa: exact match ignoring case
              and punctuation; point: in the object's box, edges included
    iou, box  rec: 0..1, and [x1, y1, x2, y2] in pixels of the image, or null where there is no box; vqa: null;
              seg: the IoU of the masks, and null; point: null
    point     point alone: [x, y] in pixels of the image, or null where there is none
    pixels    seg alone: how many pixels are in both masks and in either, and whether the answer held an outline
    kept      visual tokens that the LLM read to its end
    grids, kept_cells  where a pruner ran: [rows, cols] of the grids of patches that the image was (one, or one per
              tile), and their cells that hold a kept token: a bit each, grid after grid, row after row from the top
              left, as hexadecimal digits. Null where it is not known (unpruned; in vLLM); older files lack both. Read
              by `kept_grids`.
    cost      slots: [first decoder layer, tokens of the prompt that it and the next ones read, tokens in their cache
              after the prefill], an entry per change; layer_tokens: of those read, the mean over the layers;
              new_tokens; prefill_flops, decode_flops: of the LLM; tower_flops: of vision tower and projector, null in
              vLLM; kv_bytes: of the cache after the prefill. Older files lack it. See `accounting.py`
No line holds a time: after sorting, two runs can be compared line by line. No (setting, sample) is there twice; the
same line twice counts once, and resuming cuts the second.

summary.json, replaced as a whole after every setting: format, complete, run (model, weights, data, seed ...; what
must be equal for a run to be resumed), about (command, versions, date, device, batch size; resumed: the same of each
run that went on; unreadable: samples left out, and what is wrong with their images or boxes; processes, where there
are several), settings (accuracy, interval, mean IoU, malformed answers, shares per type; costs: means per answer, and
ratios to unpruned), differences (preserved minus reassigned), timing (seconds and samples per setting, and of
encoding the images; of several processes those of the first). See `summary.py`.

samples.rank0.jsonl and so on: of several processes each appends to its own until the first one takes its rows into
samples.jsonl. What killed processes left there the next run takes.

While a run writes there, .running says which one, and holds a lock that the system lets go of when the process ends.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace as changed
from pathlib import Path
from typing import Any, TextIO

from groundprune.errors import GroundPruneError
from groundprune.evaluation.costs import Timing
from groundprune.evaluation.disk import alone, close, replace, writing
from groundprune.evaluation.parts import lines, part_files
from groundprune.evaluation.rows import insert, read_rows
from groundprune.evaluation.specs import Setting, unique
from groundprune.evaluation.summary import Summary, summarize

SAMPLES_FILE, SUMMARY_FILE = "samples.jsonl", "summary.json"


class Results:
    """The rows of one comparison, in a folder or (folder None) in memory alone; a context manager.

    Args:
        folder: where samples.jsonl and summary.json are, or are to be.
        run: what must be equal for rows to belong together.
        about: what may differ: command, versions, date, device.
        settings: what is to be answered; settings that the folder holds already stay.
        samples: answers per setting.

    Raises:
        GroundPruneError: the folder cannot be used, holds another run (naming what differs), or is being written to
            (naming by whom).
    """

    def __init__(
        self,
        folder: str | Path | None,
        run: Mapping[str, Any],
        about: Mapping[str, Any],
        settings: Sequence[Setting],
        samples: int,
    ):
        self.folder = None if folder is None else Path(folder)
        self.run, self.about, self.samples = dict(run), dict(about), samples
        self.settings = list(settings)
        self.rows: dict[tuple[str, str], dict[str, Any]] = {}
        self.timing: dict[str, Timing] = {}
        self._left_out: dict[str, str] = {}
        self._file: TextIO | None = None
        self._resuming: dict[str, Any] | None = None  # about the run that goes on, until it adds a row
        self._held = contextlib.ExitStack()
        if self.folder is not None:
            with contextlib.ExitStack() as held:
                self._open(self.folder, held)
                self._held = held.pop_all()

    def __enter__(self) -> Results:
        return self

    def __exit__(self, *exception: object) -> None:
        self._held.close()

    def done(self, setting: Setting) -> set[str]:
        """Ids of the samples that are answered under this setting."""
        return {sample for stored, sample in self.rows if stored == setting.id}

    def add(self, rows: Sequence[dict[str, Any]]) -> None:
        """Keep rows; on disk when this returns. Raises GroundPruneError for a (setting, sample) that is there."""
        for row in rows:
            insert(self.rows, row, "this run")
        if self._resuming is not None:
            self.about["resumed"] = [*self.about.get("resumed", []), self._resuming]
            self._resuming = None
        if self._file is not None:
            with writing(self.folder):
                self._file.write(lines(rows))
                self._file.flush()

    @property
    def answered(self) -> int:
        """How many rows there are, those included that other processes hold."""
        parts = [] if self.folder is None else part_files(self.folder)
        return len(set(self.rows).union(*map(read_rows, parts)))

    def timed(self, what: str, seconds: float, samples: int) -> None:
        """Wall time joins what was measured before. what: the id of a setting, or ENCODING."""
        self.timing[what] = self.timing.get(what, Timing()) + Timing(seconds, samples)

    def leave_out(self, unreadable: Mapping[str, str]) -> None:
        """Samples that can have no answer, by id, and why: named in the summary, and not waited for.

        Raises GroundPruneError where none is left.
        """
        new = {sample: reason for sample, reason in unreadable.items() if sample not in self._left_out}
        if new:
            self._left_out |= new
            self.samples -= len(new)
            if self.samples == 0:
                raise GroundPruneError(f"no sample can be asked; the first: {next(iter(new.values()))}")
            self.about["unreadable"] = {"samples": len(self._left_out), "images": sorted({*self._left_out.values()})}

    def summary(self) -> Summary:
        found = summarize(self.run, self.about, self.settings, self.rows.values(), self.samples)
        return changed(found, timing=dict(self.timing))

    def save(self) -> Summary:
        """Replace summary.json, atomically."""
        summary = self.summary()
        if self.folder is not None:
            with writing(self.folder):
                replace(
                    self.folder / SUMMARY_FILE, json.dumps(summary.to_json(), indent=1, ensure_ascii=False) + "\n"
                )
        return summary

    def _open(self, folder: Path, held: contextlib.ExitStack) -> None:
        path = folder / SAMPLES_FILE
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            held.enter_context(alone(folder, self.about))
            if (folder / SUMMARY_FILE).exists():
                stored = read_summary(folder)
                _same_run(stored.run, self.run, folder)
                self.about, self._resuming = dict(stored.about), self.about
                self.timing = dict(stored.timing)
                self.settings = unique([*(result.setting for result in stored.settings), *self.settings])
            elif path.exists() or part_files(folder):
                raise GroundPruneError(f"{folder} holds {SAMPLES_FILE} without {SUMMARY_FILE}: not a run to resume")
            if path.exists():
                self.rows = read_rows(path, repair=True)
            self.save()
            self._file = path.open("a", encoding="utf-8", newline="\n")
            held.callback(close, self._file)
            self._take_parts(part_files(folder), self._file)

    def _take_parts(self, parts: Sequence[Path], file: TextIO) -> None:
        """What processes that were killed left in files of their own; the first may have taken it already."""
        for part in parts:
            found = read_rows(part)
            new = {key: row for key, row in found.items() if self.rows.get(key) != row}
            for row in new.values():
                insert(self.rows, row, str(part))
            file.write(lines(list(new.values())))
            file.flush()
            part.unlink()
        if parts:
            self.save()


def read_summary(path: str | Path) -> Summary:
    """Read a stored summary.

    Args:
        path: its file or its folder.

    Returns:
        Summary.

    Raises:
        GroundPruneError: there is none, or none of this format.
    """
    path = Path(path)
    path = path / SUMMARY_FILE if path.is_dir() else path
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise GroundPruneError(f"no result summary at {path}: {error}") from error
    try:
        return Summary.from_json(data)
    except GroundPruneError as error:
        raise GroundPruneError(f"{path}: {error}") from error


def _same_run(stored: Mapping[str, Any], given: Mapping[str, Any], folder: Path) -> None:
    if stored.get("data") == "scenes" and "protocol" not in stored:
        # A run of `compare`, which once left unsaid what only `evaluate` could vary.
        stored = {"protocol": "native", "source": given.get("source"), **stored}
    differing = [key for key in {**stored, **given} if stored.get(key) != given.get(key)]
    if set(differing) - {"limit"}:  # whatever was asked for, `samples` says which it were
        listed = "; ".join(f"{key}: {stored.get(key)!r} there, {given.get(key)!r} here" for key in differing)
        raise GroundPruneError(f"{folder} holds another run ({listed}): choose another folder, or delete this one")
