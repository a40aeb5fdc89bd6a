"""What stands in a cell of a table: a value and, in brackets, its interval; of several results see `tables`."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import TypeVar

from groundprune.evaluation.specs import Setting
from groundprune.evaluation.summary import Difference, Share, Summary

EMPTY = "-"
T = TypeVar("T")


def kept(results: Sequence[Summary], setting: Setting) -> str:
    """How many visual tokens the LLM read, in brackets."""
    result = results[0].result(setting.id)
    return "" if result is None or result.kept is None else f"({result.kept:g})"


def accuracy(results: Sequence[Summary], setting: Setting, kind: str, question_type: str | None = None) -> str:
    """kind: "rec" or "vqa". Without answers: EMPTY."""

    def share(result: Summary) -> Share | None:
        found = result.result(setting.id)
        if found is None:
            return None
        task = getattr(found, kind)
        asked = task.total if question_type is None else task.types.get(question_type)
        return asked if asked is not None and asked.n else None

    return _figure([(s.accuracy, s.interval) for s in _each(results, share)])


def gain(results: Sequence[Summary], pruner: str, budget: str, kind: str) -> str:
    """Preserved minus reassigned."""

    def difference(result: Summary) -> Difference | None:
        key = (pruner, budget, kind)
        return next((d for d in result.differences if (d.pruner, d.budget, d.kind) == key), None)

    return _figure([(d.difference, d.interval) for d in _each(results, difference)], "+.1f")


def _each(results: Sequence[Summary], get: Callable[[Summary], T | None]) -> list[T]:
    """What every result has; nothing where one of them lacks it: a mean over fewer seeds would not say so."""
    found = [value for value in map(get, results) if value is not None]
    return found if len(found) == len(results) else []


def _figure(found: Sequence[tuple[float, tuple[float, float]]], form: str = ".1f") -> str:
    """The mean of (value, interval), and the span of the intervals: it holds what questions and trainings vary by."""
    if not found:
        return EMPTY
    values, lows, highs = zip(*((value, *interval) for value, interval in found), strict=True)
    mean, low, high = (f"{100 * value:{form}}" for value in (statistics.fmean(values), min(lows), max(highs)))
    return f"{mean} [{low}, {high}]"
