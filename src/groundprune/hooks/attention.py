"""Read attention rows without output_attentions and without switching a model to eager attention.

While a probe is active the registered attention functions are wrapped; of the query and key that a chosen module
hands over, only the asked-for rows of the attention matrix are computed. The functions' own results are untouched.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from groundprune.errors import Unservable

# (query [B, H, Q, C], key [B, H', L, C], scaling) -> what is kept of one call
Reader = Callable[[Tensor, Tensor, float | None], Tensor]


def cls_row(query: Tensor, key: Tensor, scaling: float | None) -> Tensor:
    """[B, L, H]: attention of query 0 over all keys, softmaxed in fp32."""
    return attention_rows(query[:, :, :1], key, scaling)[:, :, 0].transpose(1, 2)


def cls_row_joint(query: Tensor, key: Tensor, scaling: float | None) -> Tensor:
    """[B, L, 1]: as `cls_row`, with the heads side by side as one; scaled by the root of the joint width."""
    joint = [x.transpose(1, 2).flatten(2)[:, None] for x in (query[:, :, :1], key)]
    return cls_row(joint[0], joint[1], None)


def received(query: Tensor, key: Tensor, scaling: float | None, chunk: int = 256) -> Tensor:
    """[B, L, H]: the attention that each key receives, mean over all queries; `chunk` queries at a time."""
    total = torch.zeros(*query.shape[:2], key.shape[2], device=query.device)
    for start in range(0, query.shape[2], chunk):
        total += attention_rows(query[:, :, start : start + chunk], key, scaling).sum(2)
    return (total / query.shape[2]).transpose(1, 2)


def keys(query: Tensor, key: Tensor, scaling: float | None) -> Tensor:
    """[B, L, H, C]."""
    return key.transpose(1, 2)


def attention_rows(query: Tensor, key: Tensor, scaling: float | None) -> Tensor:
    """[B, H, Q, C], [B, H', L, C] -> [B, H, Q, L], softmaxed in fp32, unmasked; H' divides H (grouped heads)."""
    groups = query.shape[1] // key.shape[1]
    key = key.repeat_interleave(groups, dim=1) if groups > 1 else key
    scale: float = query.shape[-1] ** -0.5 if scaling is None else scaling
    return (query.float() @ key.float().transpose(-1, -2) * scale).softmax(-1)


@contextlib.contextmanager
def probe(targets: dict[nn.Module, dict[Any, Reader]]) -> Iterator[dict[Any, list[Tensor]]]:
    """Yields {key: [one tensor per call]} for every key of `targets`' readers, in call order.

    Raises Unservable for a module that runs eager attention, which never passes through the registry.
    """
    found: dict[Any, list[Tensor]] = {key: [] for readers in targets.values() for key in readers}
    names = {_implementation(module) for module in targets}
    if "eager" in names:
        raise Unservable(
            "attention scores are read from sdpa or flash attention; this tower runs eager attention "
            "(load the model with attn_implementation='sdpa')"
        )
    local = ALL_ATTENTION_FUNCTIONS._local_mapping
    before = {name: local.get(name) for name in names}
    for name in names:
        ALL_ATTENTION_FUNCTIONS[name] = _reading(ALL_ATTENTION_FUNCTIONS[name], targets, found)
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
    def read(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **kwargs: Any) -> Any:
        for name, reader in targets.get(module, {}).items():
            with torch.no_grad():
                found[name].append(reader(query, key, kwargs.get("scaling")))
        return function(module, query, key, value, mask, **kwargs)

    return read


def _implementation(module: nn.Module) -> str:
    config: Any = module.config
    return config._attn_implementation
