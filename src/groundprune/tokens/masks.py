"""Attention masks of decoder layers whose keys are a subset of the prompt's columns.

Rebuilt from what each slot stands for, never remapped from masks that stock code made for another length. A sliding
window counts UNPRUNED columns: a token sees what the unpruned model would let it see ("positions", exact). Or it
counts slots, the tokens that are left in a layer, as stock code does, and reaches further back ("tokens").
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from groundprune.tokens.compaction import Compaction


def prefill_mask(
    compaction: Compaction, stock: Tensor | None, take: Tensor | None, columns: int, window: int | None, exact: bool
) -> Tensor:
    """Bool[B, 1, S, columns], True = may attend.

    stock: the mask that the model made for an earlier, longer set of slots (or this one: take = None), 4-D, or None =
    causal. take: Long[B, S], whose place in that set each slot has. columns: at least S; the rest of a static cache
    is hidden. exact: whether the window counts unpruned columns, or slots.
    """
    rows, slots = compaction.index.shape
    device = compaction.index.device
    if stock is not None:
        allowed = allowed_by(stock).expand(rows, -1, -1, -1)
        if take is not None:
            allowed = torch.gather(allowed, 2, take[:, None, :, None].expand(-1, -1, -1, allowed.shape[-1]))
            allowed = torch.gather(allowed, 3, take[:, None, None].expand(-1, -1, slots, -1))
        else:
            allowed = allowed[..., :slots]
    else:
        allowed = torch.ones(slots, slots, dtype=torch.bool, device=device).tril()[None, None]
    if window is not None and not exact and take is not None:
        # The stock window counted what stood in between and is dropped now: what it cut off is looked at anew.
        allowed = allowed | (take[:, None, None] <= take[:, None, :, None] - window)
    allowed = allowed & compaction.mask[:, None, None]
    if window is not None:
        place = compaction.place if exact else torch.arange(slots, device=device)[None]
        allowed = allowed & (place[:, None, None] > place[:, None, :, None] - window)
    # A slot of padding sees itself: a row that sees nothing would be NaN.
    allowed = allowed | torch.eye(slots, dtype=torch.bool, device=device)
    return torch.nn.functional.pad(allowed, (0, columns - slots))


def places_in(compaction: Compaction, earlier: Compaction) -> Tensor:
    """Long[B, S]: which slot of an earlier compaction stood in each slot's place: its mask is now this one's."""
    return replace(earlier, index=earlier.place).slots_of(compaction.place)


def decode_mask(
    compaction: Compaction, new: int, columns: int, offset: int, window: int | None, exact: bool
) -> Tensor:
    """Bool[B, 1, new, columns], True = may attend: the `new` last slots over all.

    columns, offset: how many keys the layer's cache will hold, and the slot of the first (a sliding cache drops the
    oldest, a static one is longer than what it holds). exact: as in `prefill_mask`.
    """
    slots, device = compaction.slots, compaction.index.device
    slot = torch.arange(offset, offset + columns, device=device)
    held = slot.clamp(max=slots - 1)
    place, valid = compaction.place[:, held], compaction.mask[:, held] & (slot < slots)
    query = torch.arange(compaction.length - new, compaction.length, device=device)
    allowed = valid[:, None] & (place[:, None] <= query[:, None])
    if window is not None and exact:
        allowed = allowed & (place[:, None] > query[:, None] - window)
    elif window is not None:
        allowed = allowed & (slot > torch.arange(slots - new, slots, device=device)[:, None] - window)
    return allowed[:, None]


def allowed_by(mask: Tensor) -> Tensor:
    """Bool, True = may attend, of a boolean or an additive mask."""
    return mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2


def as_given(allowed: Tensor, implementation: str, dtype: torch.dtype) -> Tensor:
    """The form that an attention implementation takes: boolean for sdpa, additive for eager attention."""
    if implementation != "eager":
        return allowed
    return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill(
        ~allowed, torch.finfo(dtype).min
    )
