"""Take out of the cache of earlier layers what a stage inside of the LLM drops."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from groundprune.errors import Unservable
from groundprune.pruning.prompt import Segment


def evict(segments: list[Segment], segment: Segment, cache: Any) -> None:
    """Shorten the layers of `segments`, all before `segment`, to the tokens that it leaves, in place.

    Raises Unservable where a sliding cache has let go of tokens already.
    """
    if cache is None:
        return
    for i, earlier in enumerate(segments):
        take = earlier.compaction.slots_of(segment.compaction.index)
        end = segments[i + 1].layer if i + 1 < len(segments) else segment.layer
        for index in range(earlier.layer, end):
            _shorten(cache.layers[index], take, earlier.compaction.slots)
        position = torch.gather(earlier.position, 2, take.expand(len(earlier.position), -1, -1))
        segments[i] = replace(earlier, compaction=segment.compaction, position=position)


def _shorten(layer: Any, take: Tensor, slots: int) -> None:
    """Keep of a cache layer's `slots` filled ones those of take: Long[B, S]."""
    if layer.keys.ndim != 4:
        raise Unservable("evict_earlier cannot drop tokens from a quantised cache: use another cache or pruner")
    if layer.get_seq_length() != layer.keys.shape[2] and not layer.is_compileable:
        raise Unservable("evict_earlier cannot drop tokens from a sliding cache that is full: use a shorter prompt")
    if layer.is_compileable and layer.keys.shape[2] < slots:
        raise Unservable("evict_earlier cannot drop tokens from a sliding cache that is full: use a dynamic cache")
    count = take.shape[1]
    for name in ("keys", "values"):
        tensor = getattr(layer, name)
        index = take[:, None, :, None].to(tensor.device).expand(-1, tensor.shape[1], -1, tensor.shape[-1])
        chosen = torch.gather(tensor, 2, index)
        if layer.is_compileable:
            tensor[:, :, :count] = chosen  # in place: compiled code holds the address
        else:
            setattr(layer, name, chosen)
    length = getattr(layer, "cumulative_length", None)
    if isinstance(length, Tensor):
        length.fill_(count)
    elif length is not None:
        layer.cumulative_length = count
    if hasattr(layer, "cumulative_length_int"):
        layer.cumulative_length_int = count
