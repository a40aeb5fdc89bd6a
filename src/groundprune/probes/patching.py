"""Put something in place of an object's attribute, and put back exactly what was there."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
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


def outermost(function: Callable[..., Any], original: Callable[..., Any], running: set[int]) -> Callable[..., Any]:
    """`function`, but `original` while another that shares `running` is under way in the same thread.

    Qwen3-VL's encoder of videos calls that of images, and only the call from outside is to be changed. What is
    returned has the signature of `original`: `generate` reads it to know which of its arguments go to the encoder.
    """

    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        thread = threading.get_ident()
        if thread in running:
            return original(*args, **kwargs)
        running.add(thread)
        try:
            return function(*args, **kwargs)
        finally:
            running.discard(thread)

    return call
