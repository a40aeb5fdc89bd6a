"""What a user may say for a budget, as a number or as text."""

from __future__ import annotations

from fractions import Fraction

from groundprune.errors import GroundPruneError


def share(keep: float | str | Fraction | None) -> Fraction:
    """Raises GroundPruneError unless 0 < keep <= 1."""
    try:
        # str() first: 0.1 means one tenth, not the binary fraction nearest to it.
        found = Fraction(str(keep).strip())
    except (ValueError, ZeroDivisionError, OverflowError):
        found = Fraction(0)
    if not 0 < found <= 1:
        raise GroundPruneError(f"keep must be a number above 0 and at most 1 (got {keep!r})")
    return found


def whole(tokens: int | str) -> int:
    """Raises GroundPruneError unless it is a whole number of at least 1."""
    try:
        count = int(str(tokens).strip())
    except ValueError:
        count = 0
    if count < 1:
        raise GroundPruneError(f"tokens must be a whole number of at least 1 (got {tokens!r})")
    return count
