"""A pruner in a file of its own, with one option of every kind."""

from dataclasses import dataclass

import groundprune as gp


@dataclass(frozen=True)
class Kinds(gp.Pruner):
    """Keeps what any base keeps.

    Args:
        share: A number.
        count: A whole number,
            or none.
        flag: A truth.
        word: Some text.
        maybe: Some text, or none.
    """

    share: float = 0.5
    count: int | None = None
    flag: bool = False
    word: str = "a"
    maybe: str | None = None
