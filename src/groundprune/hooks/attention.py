"""Read attention rows without output_attentions and without switching a model to eager attention.

While a probe is active the registered attention functions are wrapped; of the query and key that a chosen module
hands over, only the asked-for rows of the attention matrix are computed. The functions' own results are untouched.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from groundprune.errors import Unservable
from groundprune.hooks.masks import allowed_by


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


@contextlib.contextmanager
def probe(targets: dict[nn.Module, dict[Any, Reader]]) -> Iterator[dict[Any, list[Tensor]]]:
    """Yields {key: [one tensor per sequence]} for every key of `targets`' readers, in call order.

    A packed flash call (cu_seq_lens_q) counts as one call per sequence.
    """
    found: dict[Any, list[Tensor]] = {key: [] for readers in targets.values() for key in readers}
    names = {_implementation(module) for module in targets}
    local = ALL_ATTENTION_FUNCTIONS._local_mapping
    before = {name: local.get(name) for name in names}
    for name in names:
        function = _eager if name == "eager" else ALL_ATTENTION_FUNCTIONS[name]
        ALL_ATTENTION_FUNCTIONS[name] = _reading(before[name] or function, targets, found)
    try:
        yield found
    finally:
        for name, function in before.items():
            if function is None:
                del ALL_ATTENTION_FUNCTIONS[name]
            else:
                ALL_ATTENTION_FUNCTIONS[name] = function


def _reading(
    function: Callable[..., Any], targets: dict[nn.Module, dict[Any, Reader]], found: dict[Any, list[Tensor]]
) -> Callable[..., Any]:
    # The names are those of transformers: some towers pass the mask by position, others by keyword.
    def read(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
    ) -> Any:
        readers = targets.get(module)
        if readers:
            given = kwargs.get("scaling"), attention_mask, kwargs.get("softcap")
            whole = AttentionCall(query, key, value, *given)
            with torch.no_grad():
                for call in _sequences(whole, kwargs):
                    for name, reader in readers.items():
                        found[name].append(reader(call))
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
