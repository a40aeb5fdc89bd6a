"""What pruners chose, and whether they may: read from the device once for all rows of a batch.

Each look at a value on a GPU waits until all that was asked of it before is done. So nothing of a choice is looked at
while the choices of a batch are being made: what would be is written down, and read together with them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import replace

import torch
from torch import Tensor

from groundprune.tokens.selection import Selection

Check = Callable[[Selection], Selection]
Refusal = Callable[[], Exception]


class Settling:
    """While active, choices on a device are not looked at; `read` does it. On a CPU there is nothing to wait for."""

    def __init__(self) -> None:
        self._refusals: list[tuple[Tensor, Refusal]] = []
        self._checks: list[tuple[Selection, Check]] = []

    def __enter__(self) -> Settling:
        self._token = _ACTIVE.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        _ACTIVE.reset(self._token)

    def read(self, selections: Sequence[Selection]) -> list[Selection]:
        """The selections, checked, what they keep and its order on the CPU.

        selections: of the pruners that ran while this was active. Raises what they would have raised.
        """
        wanted = [s.kept for s in selections] + [s.order for s in selections if s.order is not None]
        found = iter(on_cpu([*wanted, *(flag.reshape(1) for flag, _ in self._refusals)]))
        kept = [next(found) for _ in selections]
        orders = [None if s.order is None else next(found) for s in selections]
        for flag, (_, refusal) in zip(found, self._refusals, strict=True):
            if flag:
                raise refusal()
        checks = {id(selection): check for selection, check in self._checks}
        here = [replace(s, kept=k, order=o) for s, k, o in zip(selections, kept, orders, strict=True)]
        return [checks[id(s)](h) if id(s) in checks else h for s, h in zip(selections, here, strict=True)]


_ACTIVE: ContextVar[Settling | None] = ContextVar("settling", default=None)


def refuse_if(flag: Tensor, refusal: Refusal) -> None:
    """Raise what `refusal` gives where the flag is True: now, or where that would wait, with the choice.

    flag: Bool, one value.
    """
    active = _ACTIVE.get()
    if active is not None and flag.device.type != "cpu":
        active._refusals.append((flag, refusal))
    elif bool(flag):
        raise refusal()


def settled(selection: Selection, check: Check) -> Selection:
    """What `check` makes of the selection with what it keeps on the CPU: now, or where that would wait, later."""
    active = _ACTIVE.get()
    if active is not None and selection.kept.device.type != "cpu":
        active._checks.append((selection, check))
        return selection
    kept, *order = on_cpu([x for x in (selection.kept, selection.order) if x is not None])
    return check(replace(selection, kept=kept, order=order[0] if order else None))


def on_cpu(values: Sequence[Tensor]) -> list[Tensor]:
    """Whole numbers of any shapes and devices, in one copy."""
    far = [value for value in values if value.device.type != "cpu"]
    if not far:
        return list(values)
    joined = torch.cat([value.reshape(-1).long() for value in far]).cpu()
    split = joined.split([value.numel() for value in far])
    parts = (part.reshape(value.shape) for part, value in zip(split, far, strict=True))
    return [value if value.device.type == "cpu" else next(parts) for value in values]
