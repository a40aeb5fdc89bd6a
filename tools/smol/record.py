"""What is kept of a training: its plans, time, machine and versions in training.json, and the logs beside it."""

import json
import platform
import re
import shutil
from pathlib import Path
from typing import Any

from tools.pocket_training.card import versions
from tools.pocket_training.runtime import load_state

FILE = "training.json"


def trained_on(device: str) -> dict[str, Any]:
    """What a checkpoint says of the machine that trains it."""
    return {"command": "python -m tools.smol", "versions": versions(), "machine": f"{_processor()}, {device}"}


def save_record(stages: list[Path], folder: Path) -> None:
    """stages: the checkpoints of both. Their logs are copied."""
    folder.mkdir(parents=True, exist_ok=True)
    states = {path.stem: load_state(path) for path in stages}
    *_, last = states.values()
    record = {**last["made"], **{stage: _told(state) for stage, state in states.items()}}
    (folder / FILE).write_text(json.dumps(record, indent=2) + "\n")
    for path in stages:
        shutil.copy(path.with_suffix(".jsonl"), folder)


def _told(state: dict[str, Any]) -> dict[str, Any]:
    """seconds: of the run; processor: likewise, of all its threads, but not of those that draw scenes."""
    times = {name: round(state[name]) for name in ("seconds", "processor")}
    return {"plan": state["plan"], "trained": sum(p.numel() for p in state["model"].values()), **times}


def _processor() -> str:
    """As Linux knows it."""
    told = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*: (.+)$", told.read_text(), re.MULTILINE) if told.is_file() else None
    return found[1] if found else platform.machine()
