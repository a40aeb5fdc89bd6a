"""Compactions of more, fewer or repeated columns: beams, drafted tokens, later turns."""

from __future__ import annotations

import torch
from torch import Tensor

from groundprune.tokens.compaction import Compaction


def without_last(given: Compaction, count: int) -> Compaction:
    """As if the unpruned batch had been shorter by its last `count` columns, all of which stayed."""
    held = None if given.reordered is None else given.reordered[:, :-count]
    unpadded = given.unpadded or None  # of a cut mask True alone is known
    return Compaction(given.index[:, :-count], given.mask[:, :-count], given.length - count, held, unpadded)


def with_later(given: Compaction, later: Tensor) -> Compaction:
    """With columns behind the batch that all stay. later: Bool[B, T], False = padding."""
    new = torch.arange(given.length, given.length + later.shape[1], device=given.index.device)
    new = new.expand(len(given.index), -1)
    held = None if given.reordered is None else torch.cat([given.reordered, new], dim=1)
    mask = torch.cat([given.mask, later], dim=1)
    return Compaction(torch.cat([given.index, new], dim=1), mask, given.length + later.shape[1], held)


def repeated(given: Compaction, copies: int) -> Compaction:
    """Each row `copies` times, as `generate` repeats the rows of a batch."""
    held = None if given.reordered is None else given.reordered.repeat_interleave(copies, dim=0)
    index, mask = (x.repeat_interleave(copies, dim=0) for x in (given.index, given.mask))
    return Compaction(index, mask, given.length, held, given.unpadded)


def grown_mask(given: Compaction, mask: Tensor | None, tail: int) -> Tensor:
    """Bool[B, S + tail]: the mask over the compact columns and `tail` columns that came after them.

    mask: [B, L + tail] over the unpruned columns, as `generate` grows it, or None (no padding).
    """
    if mask is None:
        newer = given.mask.new_ones(given.mask.shape[0], tail)
    else:
        newer = mask[:, given.length : given.length + tail].bool().to(given.mask.device)
    return torch.cat([given.mask, newer], dim=1)
