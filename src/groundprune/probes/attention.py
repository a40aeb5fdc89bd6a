"""Read attention rows without output_attentions and without switching a model to eager attention.

While any probe is open the registered attention function is wrapped, once; of the query and key that a chosen module
hands over, only the asked-for rows of the attention matrix are computed. The functions' own results are untouched.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from groundprune.errors import Unservable
from groundprune.tokens.masks import allowed_by


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

    def seen(self) -> Tensor | int:
        """How many queries may see each key: [B or 1, 1, L], or a number where it is all of them."""
        if self.mask is None:
            return self.query.shape[2]
        return allowed_by(self.mask).sum(2).clamp(min=1)


Reader = Callable[[AttentionCall], Any]  # what is kept of one call


def cls_row(call: AttentionCall) -> Tensor:
    """[B, L, H]: attention of query 0 over all keys."""
    return call.rows(slice(0, 1))[:, :, 0].transpose(1, 2)


def cls_row_joint(call: AttentionCall) -> Tensor:
    """[B, L, 1]: as `cls_row`, with the heads side by side as one; scaled by the root of the joint width."""
    query, key = (x.transpose(1, 2).flatten(2)[:, None] for x in (call.query[:, :, :1], call.key))
    return cls_row(AttentionCall(query, key, key))


def received(call: AttentionCall, chunk: int = 256) -> Tensor:
    """[B, L, H]: attention that each key receives, mean over the queries that may see it; `chunk` at a time."""
    total = torch.zeros(*call.query.shape[:2], call.key.shape[2], device=call.query.device)
    for start in range(0, call.query.shape[2], chunk):
        total += call.rows(slice(start, start + chunk)).sum(2)
    return (total / call.seen()).transpose(1, 2)


def keys(call: AttentionCall) -> Tensor:
    """[B, L, H, C]."""
    return call.key.transpose(1, 2)


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
    names = {_implementation(module) for module in targets}
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
        count, wrapper = 0, _reading(_eager if name == "eager" and before is None else ALL_ATTENTION_FUNCTIONS[name])
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
            calls = _sequences(AttentionCall(query, key, value, *given), kwargs)
            with torch.no_grad():
                for listener in mine:
                    for call in calls:
                        for name, reader in listener.readers.items():
                            listener.found[name].append(reader(call))
        return function(module, query, key, value, attention_mask, **kwargs)

    return read


def _sequences(call: AttentionCall, kwargs: dict[str, Any]) -> list[AttentionCall]:
    """A packed call of variable-length flash attention, taken apart."""
    ends = kwargs.get("cu_seq_lens_q")
    if ends is None:
        return [call]
    lengths = ends.diff().tolist()
    parts = zip(*(x.split(lengths, dim=2) for x in (call.query, call.key, call.value)), strict=True)
    return [replace(call, query=query, key=key, value=value, mask=None) for query, key, value in parts]


def _eager(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """What a model under eager attention calls: a function of its own modelling file."""
    for cls in type(module).__mro__:
        function = getattr(sys.modules[cls.__module__], "eager_attention_forward", None)
        if function is not None:
            return function(module, *args, **kwargs)
    raise Unservable(f"{type(module).__name__} has no eager attention function to read from")


def _implementation(module: nn.Module) -> str:
    config: Any = module.config
    return config._attn_implementation
