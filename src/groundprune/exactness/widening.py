"""A model for the time of a proof: what it stores stays as it is, what it computes is rounded to fp32 and no coarser.

Weights in half precision are exact in fp32. So are the scales of quantised weights, which torch's protocol for
tensor subclasses (`__tensor_flatten__`) hands out, and the values that a 4-bit weight of bitsandbytes stands for.
What rounds activations to a few bits goes on doing so: that is the model.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from groundprune.probes.patching import replaced

HALVES = (torch.float16, torch.bfloat16)  # fp8 is a code that its kernels read, no number to be widened


@contextlib.contextmanager
def in_fp32(model: Any) -> Iterator[None]:
    """While active, a model's weights and the scales of its quantised weights are in fp32, and so is its arithmetic.

    Then they are those of before: the same tensors.

    Args:
        model: of any dtype; quantised ones too.
    """
    with contextlib.ExitStack() as stack:
        for module in model.modules():
            _widen(module, stack)
        yield


def _widen(module: nn.Module, stack: contextlib.ExitStack) -> None:
    if hasattr(module, "qweight") and hasattr(module, "scales"):  # GPTQ's and AWQ's kernels read both in one dtype
        stack.enter_context(_in_its_dtype(module))
        return
    if isinstance(getattr(module, "compute_dtype", None), torch.dtype):
        stack.enter_context(replaced(module, "compute_dtype", torch.float32))
    if getattr(module, "support_avx512bf16_for_cpu", False):
        # bitsandbytes would pack 4-bit weights for a kernel that computes in bf16. What is packed already stays so:
        # its own way back (0.50) does not give the weights of before.
        stack.enter_context(replaced(module, "support_avx512bf16_for_cpu", False))
    stores: list[dict[str, Tensor | None]] = [module._parameters, module._buffers]  # type: ignore[list-item]
    for held in stores:
        for name, tensor in list(held.items()):
            if tensor is None:
                continue
            if is_traceable_wrapper_subclass(tensor):
                stack.callback(held.__setitem__, name, tensor)
                wide = _widened(tensor)
                held[name] = nn.Parameter(wide, requires_grad=False) if held is module._parameters else wide
            elif tensor.dtype in HALVES:
                stack.callback(setattr, tensor, "data", tensor.data)
                tensor.data = tensor.data.float()


@contextlib.contextmanager
def _in_its_dtype(module: nn.Module) -> Iterator[None]:
    """While active, a linear layer gets its states in its scales' dtype, and hands out fp32."""
    dtype: torch.dtype = module.scales.dtype  # type: ignore[assignment]
    before = module.register_forward_pre_hook(lambda _, args: (args[0].to(dtype), *args[1:]))
    after = module.register_forward_hook(lambda _, __, output: output.float())
    try:
        yield
    finally:
        before.remove()
        after.remove()


def _widened(tensor: Tensor) -> Tensor:
    """The same number in fp32; of a subclass, with its inner tensors in fp32."""
    if is_traceable_wrapper_subclass(tensor):
        names, about = tensor.__tensor_flatten__()
        inner = {name: _widened(getattr(tensor, name)) for name in names}
        return type(tensor).__tensor_unflatten__(inner, about, tensor.size(), tensor.stride())
    return tensor.float() if tensor.dtype in HALVES else tensor
