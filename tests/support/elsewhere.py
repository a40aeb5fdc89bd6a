"""A device that is not there: its tensors say that they are elsewhere, hold their values on the CPU, and mix with no
other's.

What is wrong on a GPU shows without one: tensors of two devices in one operation are refused, as CUDA does, and what
would have to wait for the device is counted. For processes of their own: torch then knows one more device for good.
"""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

aten = torch.ops.aten
NAME = "elsewhere"
# What gives a number, or a size that depends on values.
WAITS = {
    aten._local_scalar_dense.default, aten.nonzero.default, aten.masked_select.default, aten._unique2.default,
    aten.equal.default, aten.is_nonzero.default, aten.repeat_interleave.Tensor,
}  # fmt: skip
INDEXED = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}


class Elsewhere(Tensor):
    """A tensor of that device. held: its values."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> Elsewhere:
        made = Tensor._make_wrapper_subclass(
            cls, held.shape, dtype=held.dtype, strides=held.stride(), storage_offset=held.storage_offset(),
            device=torch.device(NAME, 0),
        )  # fmt: skip
        made.held = held
        return made

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __repr__(self) -> str:
        return f"Elsewhere({self.held!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{func} outside of `elsewhere()`")


class _Operations(TorchDispatchMode):
    def __init__(self, waits: Counter[str]):
        super().__init__()
        self._waits = waits

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        far = any(isinstance(x, Elsewhere) for x in tensors)
        goes_there = far
        if kwargs.get("device") is not None:
            goes_there = _is_there(kwargs["device"])
            if goes_there:
                kwargs["device"] = torch.device("cpu")
        if func is aten.copy_.default:
            goes_there = isinstance(args[0], Elsewhere)
            self._copied(goes_there != isinstance(args[1], Elsewhere), len(args) > 2 and args[2])
        elif func is aten._to_copy.default:
            self._copied(far != goes_there, kwargs.get("non_blocking"))
        elif far:
            self._check(func, args, tensors)
        bare = tree_map(lambda x: x.held if isinstance(x, Elsewhere) else x, (args, kwargs))
        found = func(*bare[0], **bare[1])
        if not goes_there or func is aten._local_scalar_dense.default:
            return found
        known = {id(x.held): x for x in tensors if isinstance(x, Elsewhere)}
        return tree_map(lambda x: known[id(x)] if id(x) in known else _there(x), found)

    def _copied(self, between: bool, freely: Any) -> None:
        if between and not freely:
            waited(self._waits, "copy")

    def _check(self, func: Any, args: Any, tensors: list[Tensor]) -> None:
        strangers = [x for x in tensors if not isinstance(x, Elsewhere) and x.ndim]
        if func in INDEXED:
            indices = [x for x in args[1] if x is not None]
            strangers = [x for x in strangers if all(x is not index for index in indices)]
            # Indices are taken there, and masks become numbers of values.
            if any(not isinstance(x, Elsewhere) or x.dtype == torch.bool for x in indices):
                waited(self._waits, str(func))
        elif func in WAITS:
            waited(self._waits, str(func))
        if strangers:
            raise RuntimeError(f"{func}: tensors of two devices")


class _Functions(TorchFunctionMode):
    """What never comes by as an operation."""

    def __init__(self, waits: Counter[str]):
        super().__init__()
        self._waits = waits

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") and _is_there(kwargs["device"]):
            values, *rest = args
            if not isinstance(values, Tensor):
                values = tree_map(lambda x: x.item() if isinstance(x, Elsewhere) else x, values)
            made = func(values, *rest, **{**kwargs, "device": None})
            if made.numel() and not isinstance(made, Elsewhere):
                waited(self._waits, func.__name__)
            return _there(made)
        if getattr(func, "__name__", "") in ("tolist", "numpy") and isinstance(args[0], Elsewhere):
            waited(self._waits, func.__name__)
            return getattr(args[0].held, func.__name__)()
        return func(*args, **kwargs)


def _is_there(device: Any) -> bool:
    return torch.device(device).type == NAME


def _there(value: Any) -> Any:
    return Elsewhere(value) if isinstance(value, Tensor) and not isinstance(value, Elsewhere) else value


def waited(waits: Counter[str], what: str) -> None:
    """Once more, named by the line of ours, or of transformers, that asked."""
    frame = sys._getframe(1)
    while frame.f_back is not None and not any(
        name in frame.f_code.co_filename for name in ("/groundprune/", "/transformers/")
    ):
        frame = frame.f_back
    waits[f"{'/'.join(frame.f_code.co_filename.split('/')[-2:])}:{frame.f_lineno} {what}"] += 1


@contextlib.contextmanager
def elsewhere() -> Iterator[Counter[str]]:
    """While active, there is that device; gives what has waited for it so far, by line and operation."""
    from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

    if torch._C._get_privateuse1_backend_name() != NAME:
        _setup_privateuseone_for_python_backend(NAME)
    waits: Counter[str] = Counter()
    with _Operations(waits), _Functions(waits):
        yield waits


def moved(model: nn.Module) -> nn.Module:
    """The model with its weights there; inside of `elsewhere`."""
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(_there(parameter.detach()), requires_grad=False)
        for name, buffer in module._buffers.items():
            module._buffers[name] = _there(buffer)
    return model
