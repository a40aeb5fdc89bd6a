"""From the CPU to a device, without waiting for what is computed there, where that is safe."""

from __future__ import annotations

import torch
from torch import Tensor

# Kinds of devices whose copies have read ordinary memory by the time they return. Others may read it later, when what
# was only made to be sent is gone.
READ_AT_ONCE = {"cuda"}


def sent(value: Tensor, device: torch.device | str) -> Tensor:
    """The tensor on a device.

    Args:
        value: of any shape, on the CPU or on the device.
        device: where to.

    Returns:
        Tensor; `value` itself where it is there.
    """
    return value.to(device, non_blocking=torch.device(device).type in READ_AT_ONCE)
