"""Rows of a study that nobody ran."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from groundprune.evaluation.specs import Setting
from groundprune.studies.study import Run


def made_rows(
    setting: Setting, kind: str, right: Sequence[bool], type: str = "any", **more: Any
) -> list[dict[str, Any]]:
    """One row per sample, in order; `right` says whether it was answered. more: further columns, of every row."""
    return [
        {
            "setting": setting.id, "sample": f"{kind}-{i:04d}", "kind": kind, "type": type, "answer": "",
            "correct": ok, "iou": float(ok) if kind == "rec" else None,
            "box": [0, 0, 1, 1] if kind == "rec" else None, "kept": 144, **more,
        }
        for i, ok in enumerate(right)
    ]  # fmt: skip


def made_run(rows: Sequence[dict[str, Any]], model: str = "made", **measured: Any) -> Run:
    """A run of these rows; measured: its steps."""
    return Run(model, list(rows), measured)
