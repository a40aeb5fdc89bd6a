"""Read attention rows without output_attentions and without switching a model to eager attention.

While any probe is open the registered attention function is wrapped, once; of the query and key that a chosen module
hands over, only the asked-for rows of the attention matrix are computed. The functions' own results are untouched.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from groundprune.probes.calls import eager, sequences


@dataclass(frozen=True, eq=False)
class AttentionCall:
    """What a module hands to its attention function.

    query [B, H, Q, C]; key, value [B, H', L, C], H' divides H (grouped heads), rotary embedding applied.
    mask: Bool (True = may attend) or an additive float, [B or 1, 1, Q, L]; None = every query sees every key.
    softcap: logits are squeezed to within it (Gemma 2, arXiv 2408.00118, section 2), None = as they are.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    scaling: float | None = None
    mask: Tensor | None = None
    softcap: float | None = None

    def rows(self, queries: slice) -> Tensor:
        """[B, H, Q, L]: attention of these queries over all keys, softmaxed in fp32."""
        groups = self.query.shape[1] // self.key.shape[1]
        key = self.key.repeat_interleave(groups, dim=1) if groups > 1 else self.key
        scale: float = self.query.shape[-1] ** -0.5 if self.scaling is None else self.scaling
        logits = self.query[:, :, queries].float() @ key.float().transpose(-1, -2) * scale
        if self.softcap is not None:
            logits = (logits / self.softcap).tanh() * self.softcap
        mask = None if self.mask is None else self.mask[:, :, queries, : logits.shape[-1]]
        if mask is not None:
            logits = logits.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else logits + mask.float()
        return logits.softmax(-1).nan_to_num()  # a row that may see nothing is NaN


Reader = Callable[[AttentionCall], Any]  # what is kept of one call


def cls_row(call: AttentionCall) -> Tensor:
    """[B, L, H]: attention of query 0 over all keys."""
    return call.rows(slice(0, 1))[:, :, 0].transpose(1, 2)


@dataclass(frozen=True, eq=False)
class _Listener:
    """One probe's readers of one module, and whose forward they read: the thread that opened the probe."""

    readers: dict[Any, Reader]
    found: dict[Any, list[Tensor]]
    thread: int


# Of the whole process, as the registry is: contexts of several models may overlap in any order.
_LOCK = threading.Lock()
_listeners: dict[nn.Module, tuple[_Listener, ...]] = {}
_wrapped: dict[
    str, tuple[int, Callable[..., Any], Callable[..., Any] | None]
] = {}  # open probes, wrapper, what it hid


@contextlib.contextmanager
def probe(targets: dict[nn.Module, dict[Any, Reader]]) -> Iterator[dict[Any, list[Tensor]]]:
    """Yields {key: [one tensor per sequence]} for every key of `targets`' readers, in call order.

    Read are the calls of the thread that opened the probe; an inner probe of the same module reads first. A packed
    flash call (cu_seq_lens_q) counts as one call per sequence.
    """
    found: dict[Any, list[Tensor]] = {key: [] for readers in targets.values() for key in readers}
    mine = {module: _Listener(readers, found, threading.get_ident()) for module, readers in targets.items()}
    configs: list[Any] = [module.config for module in targets]
    names = {config._attn_implementation for config in configs}
    with _LOCK:
        for name in names:
            _wrap(name)
        for module, listener in mine.items():
            _listeners[module] = (listener, *_listeners.get(module, ()))
    try:
        yield found
    finally:
        with _LOCK:
            for module, listener in mine.items():
                left = tuple(other for other in _listeners.pop(module) if other is not listener)
                if left:
                    _listeners[module] = left
            for name in names:
                _unwrap(name)


def _wrap(name: str) -> None:
    """One wrapper per implementation, however many probes are open."""
    if name in _wrapped:
        count, wrapper, before = _wrapped[name]
    else:
        before = ALL_ATTENTION_FUNCTIONS._local_mapping.get(name)
        count, wrapper = 0, _reading(eager if name == "eager" and before is None else ALL_ATTENTION_FUNCTIONS[name])
        ALL_ATTENTION_FUNCTIONS[name] = wrapper
    _wrapped[name] = count + 1, wrapper, before


def _unwrap(name: str) -> None:
    """The last probe that closes puts back what was there; a function that was registered meanwhile stays."""
    count, wrapper, before = _wrapped.pop(name)
    if count > 1:
        _wrapped[name] = count - 1, wrapper, before
    elif ALL_ATTENTION_FUNCTIONS._local_mapping.get(name) is wrapper:
        if before is None:
            del ALL_ATTENTION_FUNCTIONS[name]
        else:
            ALL_ATTENTION_FUNCTIONS[name] = before


def _reading(function: Callable[..., Any]) -> Callable[..., Any]:
    # The names are those of transformers: some towers pass the mask by position, others by keyword.
    def read(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
    ) -> Any:
        mine = [each for each in _listeners.get(module, ()) if each.thread == threading.get_ident()]
        if mine:
            given = kwargs.get("scaling"), attention_mask, kwargs.get("softcap")
            call, ends = AttentionCall(query, key, value, *given), kwargs.get("cu_seq_lens_q")
            calls = [call] if ends is None else sequences(call, ends)
            with torch.no_grad():
                for listener in mine:
                    for call in calls:
                        for name, reader in listener.readers.items():
                            listener.found[name].append(reader(call))
        return function(module, query, key, value, attention_mask, **kwargs)

    return read
