"""Put something in place of an object's attribute, and put back exactly what was there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """While active, `owner.name` is `value`. An attribute that came from the class comes from it again."""
    own = vars(owner)
    before = own.get(name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if before is None:
            delattr(owner, name)
        else:
            setattr(owner, name, before)
