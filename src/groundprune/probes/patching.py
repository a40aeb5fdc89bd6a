"""Put something in place of an object's attribute, and put back exactly what was there."""

from __future__ import annotations

import contextlib
import functools
import types
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
        _put_back(owner, name, before)


@contextlib.contextmanager
def overlaid(owner: Any, name: str, make: Callable[[Any], Any]) -> Iterator[None]:
    """While active, the method `owner.name` is make(method), by signature and binding the same.

    What another has put around it by then stays (accelerate's autocast, which a Trainer lays on while it trains), and
    calls the method itself from then on.
    """
    original = getattr(owner, name)
    call: Any = make(original)
    function = getattr(original, "__func__", None)

    def bound(self: Any, *args: Any, **kwargs: Any) -> Any:
        return call(*args, **kwargs)

    def free(*args: Any, **kwargs: Any) -> Any:
        return call(*args, **kwargs)

    method: Any = (
        functools.wraps(original)(free)
        if function is None
        else types.MethodType(functools.wraps(function)(bound), owner)
    )
    own = vars(owner)
    before = own.get(name)
    setattr(owner, name, method)
    try:
        yield
    finally:
        call = original
        if own.get(name) is method:
            _put_back(owner, name, before)


def _put_back(owner: Any, name: str, before: Any) -> None:
    """before: the owner's own attribute; None = it had none, and the class's is to be found again."""
    if before is None:
        delattr(owner, name)
    else:
        setattr(owner, name, before)
