"""The errors that a user meets: what was given, what is allowed."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class GroundPruneError(ValueError):
    """Something that the caller asked for cannot be done as asked. The message is one line."""


class Unservable(GroundPruneError):
    """The model, or the way it is called, cannot give what a pruner or a policy needs."""


class Unproven(GroundPruneError):
    """Nothing can be proven about this pruner on these inputs."""


def unknown(kind: str, given: str, allowed: Iterable[str]) -> GroundPruneError:
    """The error for a name that is not in a registry, with the nearest name and the whole list.

    Args:
        kind: what the name is of, "pruner" say.
        given: the name.
        allowed: the names that there are.

    Returns:
        GroundPruneError, to be raised.
    """
    allowed = sorted(allowed)
    near = difflib.get_close_matches(str(given), allowed, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return GroundPruneError(f"unknown {kind} {given!r}{hint} (known: {', '.join(allowed)})")


def first_line(error: BaseException) -> str:
    """What an error says, in one line; its type where it says nothing.

    Args:
        error: any.

    Returns:
        A line without its end.
    """
    return (str(error).strip() or type(error).__name__).splitlines()[0]
