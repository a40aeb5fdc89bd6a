"""Where a measurement was made, and how it is stored: after every cell, so that a run that was stopped goes on."""

from __future__ import annotations

import json
import platform
import shlex
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import transformers

import groundprune
from groundprune.errors import GroundPruneError
from groundprune.report.writing import replacing


def about(dtype: str = "float32") -> dict[str, Any]:
    """Command, versions, date and machine of this process."""
    machine = {"processor": platform.machine(), "threads": torch.get_num_threads(), "dtype": dtype}
    if torch.cuda.is_available():
        machine["gpu"] = torch.cuda.get_device_name()
    return {
        "command": shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]]),
        "versions": {
            "groundprune": groundprune.__version__, "torch": torch.__version__,
            "transformers": transformers.__version__, "python": platform.python_version(),
        },
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine,
    }  # fmt: skip


def store(path: Path, found: Mapping[str, Any], dtype: str = "float32") -> None:
    """Write a result with what `about` says of it; what stood there is replaced as a whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as draft:
        text = json.dumps({"about": about(dtype), **found}, indent=1, allow_nan=False)
        draft.write_text(text + "\n", encoding="utf-8")


class Cells:
    """The cells of a result file, each measured once.

    Args:
        path: of the file, read where it is there.
        **plan: what every cell shares, such as the seed and the dtype.

    Raises:
        GroundPruneError: the file cannot be read, or was measured on another machine or with another plan.
    """

    def __init__(self, path: Path, **plan: Any):
        self.path, self.plan, self._dtype = path, plan, plan.get("dtype", "float32")
        self.cells: dict[str, Any] = {}
        if not path.exists():
            return
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            machine, known, cells = found["about"]["machine"], found["plan"], found["cells"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise GroundPruneError(f"{path} holds no cells of a benchmark ({error!r})") from error
        there, here = {**machine, **known}, {**about(self._dtype)["machine"], **plan}
        other = [name for name in sorted({*there, *here}) if there.get(name) != here.get(name)]
        if other:
            told = "; ".join(f"{name}: {there.get(name)} there, {here.get(name)} here" for name in other)
            raise GroundPruneError(f"{path} was measured otherwise ({told}): give another --out")
        self.cells = cells

    def measure(self, name: str, measured: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
        """The cell of that name, measured now if it is not there yet."""
        if name not in self.cells:
            self.cells[name] = dict(measured())
            store(self.path, {"plan": self.plan, "cells": self.cells}, self._dtype)
        return self.cells[name]
