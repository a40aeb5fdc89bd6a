"""Verdicts on a claim that several cases bear on, made of theirs."""

from __future__ import annotations

from collections.abc import Sequence

from groundprune.studies.study import FAILS, HOLDS, UNTOLD


def all_of(verdicts: Sequence[str]) -> str:
    """Of a claim that every case must bear out: one that does not is enough to refute it."""
    if verdicts and all(verdict == HOLDS for verdict in verdicts):
        return HOLDS
    return FAILS if FAILS in verdicts else UNTOLD


def any_of(verdicts: Sequence[str]) -> str:
    """Of a claim that one case bears out; refuted where all are."""
    if HOLDS in verdicts:
        return HOLDS
    return FAILS if verdicts and all(verdict == FAILS for verdict in verdicts) else UNTOLD
