"""What the benchmarks share: where a measurement was made, and how it is stored."""

from __future__ import annotations

import json
import platform
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import transformers

import groundprune


def seconds(call: Callable[[], Any]) -> float:
    """Processor time of one call, which other processes of the machine hardly change; use one thread."""
    start = time.process_time()
    call()
    return time.process_time() - start


def matmul_flops(size: int = 2048, repetitions: int = 5) -> float:
    """FLOP/s of this machine's fp32 matrix product, on one thread; the best of a few."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    return 2 * size**3 / min(seconds(lambda: a @ b) for _ in range(repetitions + 1))


def store(path: Path, found: dict[str, Any]) -> None:
    """Write a result with its command, versions, date and machine."""
    about = {
        "command": " ".join(["python", *sys.argv]),
        "versions": {
            "groundprune": groundprune.__version__, "torch": torch.__version__,
            "transformers": transformers.__version__, "python": platform.python_version(),
        },
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"processor": platform.machine(), "threads": torch.get_num_threads(), "dtype": "float32"},
    }  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"about": about, **found}, indent=1) + "\n", encoding="utf-8")
