"""Masks and rotary embeddings of decoder layers that see fewer tokens than entered the LLM."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from groundprune.pruning.prompt import Segment
from groundprune.tokens.compaction import Compaction
from groundprune.tokens.growth import with_later
from groundprune.tokens.masks import as_given, decode_mask, places_in, prefill_mask


class LayerInputs:
    """Makes them as the decoder and its attention implementation take them.

    config: of the text model. windows: the sliding one of each layer. exact_windows: they count unpruned columns,
    else slots.
    """

    def __init__(self, decoder: Any, config: Any, windows: Sequence[int | None], exact_windows: bool):
        self._decoder, self._config, self.exact_windows = decoder, config, exact_windows
        self.windows = windows
        self._types = getattr(config, "layer_types", None)
        self._takes_type = "layer_type" in inspect.signature(decoder.rotary_emb.forward).parameters

    @property
    def implementation(self) -> str:
        return self._config._attn_implementation or "eager"

    def beyond_windows(self, length: int) -> bool:
        """Whether so many unpruned columns outgrow a window that counts them."""
        return self.exact_windows and any(window is not None and length > window for window in self.windows)

    def window(self, layer: int, length: int, slots: int) -> int | None:
        """A layer's window, None where `length` unpruned columns in so many slots do not reach it."""
        window = self.windows[layer]
        return None if window is None or (length if self.exact_windows else slots) <= window else window

    def kind(self, layer: int) -> str | None:
        """What a layer's rotary embedding depends on: its type, where the model has one for each."""
        return self._types[layer] if self._types and self._takes_type else None

    def frequencies(self, layer: int) -> Tensor:
        """[C / 2]: by how much each pair of channels of a layer turns per position."""
        kind = self.kind(layer)
        return getattr(self._decoder.rotary_emb, "inv_freq" if kind is None else f"{kind}_inv_freq")

    def rotary(self, ids: Tensor, axes: int, kind: str | None) -> Any:
        """The decoder's own (cos, sin) of ids: [B, S], or [A, B, S]."""
        if ids.ndim == 3 and axes == 1:
            ids = ids[0]
        elif ids.ndim == 2 and axes == 3:
            ids = ids[None].expand(3, -1, -1)
        like = torch.empty(0, dtype=self._decoder.dtype, device=ids.device)
        return self._decoder.rotary_emb(like, ids, kind) if self._takes_type else self._decoder.rotary_emb(like, ids)

    def prefill(
        self, compaction: Compaction, entered: Compaction, stock: Tensor | None, columns: int, window: int | None
    ) -> Tensor | None:
        """See `prefill_mask`. entered: of what entered the LLM, which the stock mask is for."""
        whole = compaction.full
        if "flash" in self.implementation:
            return None if whole else compaction.mask.long()
        given = stock if stock is not None and stock.ndim == 4 else None
        if given is None and window is None and columns == compaction.slots and whole:
            return None  # stock code left it to the kernel, which is causal by itself
        take = None if compaction is entered else places_in(compaction, entered)
        allowed = prefill_mask(compaction, given, take, columns, window, self.exact_windows)
        return as_given(allowed, self.implementation, self._decoder.dtype)

    def decode(
        self, before: Compaction, later: Tensor, new: int, columns: int, offset: int, window: int | None, whole: bool
    ) -> Tensor | None:
        """See `decode_mask`. before: of the prompt; later: Bool[B, T], the mask over what came after it.

        whole: whether no slot is padding.
        """
        slots = before.slots + later.shape[1]
        if whole and ("flash" in self.implementation or (new == 1 and window is None and offset + columns <= slots)):
            return None  # what stock code gives for one token that sees all, and faster kernels take
        compaction = with_later(before, later)
        if "flash" in self.implementation:
            return compaction.mask.long()
        allowed = decode_mask(compaction, new, columns, offset, window, self.exact_windows)
        # Without a window what hides padding hides it from every token.
        if new == 1 and window is not None and bool(allowed.all()):
            return None
        return as_given(allowed, self.implementation, self._decoder.dtype)

    def steps(
        self, layers: int, segments: Sequence[Segment], later: Tensor, new: int, cache: Any, ids: Tensor
    ) -> list[tuple[Tensor | None, Any] | None]:
        """Per layer the mask and the rotary embedding of `new` tokens, each None where it is that of stock code.

        later: Bool[B, T], the mask over what came after the prompt, `new` tokens included; ids: of these.
        """
        first, tail = segments[0], later.shape[1]
        length = first.compaction.length + tail
        memo: dict[Any, Any] = {}
        found: list[tuple[Tensor | None, Any] | None] = []
        unpadded = bool(later.all())
        at = 0
        for index in range(layers):
            while at + 1 < len(segments) and segments[at + 1].layer <= index:
                at += 1
            mine = segments[at].compaction
            window = self.window(index, length, mine.slots + tail)
            if at == 0 and (window is None or not self.exact_windows):  # stock code counts slots by itself
                found.append(None)
                continue
            columns, offset = (int(x) for x in cache.get_mask_sizes(new, index))
            key = (at, columns, offset, window)
            if key not in memo:
                memo[key] = self.decode(mine, later, new, columns, offset, window, mine.full and unpadded)
            kind = self.kind(index)
            moved = segments[at].shifts != first.shifts
            if moved and (at, kind) not in memo:
                shift = segments[at].shift - first.shift
                memo[at, kind] = self.rotary(ids + shift[:, None], len(first.position), kind)
            found.append((memo[key], memo[at, kind] if moved else None))
        return found
