"""From a pruned prompt to the one that it was made from, and back; needs no vLLM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Span:
    """An image's (or a video's) slots in a pruned prompt.

    start: the first; count: how many; total: tokens before pruning. kept: Long[count], which of the `total` they are,
    ascending; None where only the tower will tell. tokens: all `total` of them, where they are not all alike.
    """

    start: int
    count: int
    total: int
    kept: Tensor | None
    tokens: Sequence[int] | None = None


def unpruned(tokens: Sequence[int], spans: Sequence[Span]) -> tuple[list[int], list[int]]:
    """The prompt with every dropped token back in its place, and where each span starts in it."""
    whole: list[int] = []
    starts: list[int] = []
    done = 0
    for span in spans:
        whole += tokens[done : span.start]
        starts.append(len(whole))
        # What is neither image nor pruned need not be all alike.
        mine = tokens[span.start : span.start + span.count]
        whole += span.tokens or (mine if span.count == span.total else [mine[0]] * span.total)
        done = span.start + span.count
    return whole + list(tokens[done:]), starts


def columns(length: int, spans: Sequence[Span]) -> Tensor:
    """Long[length]: the column of each slot in the unpruned prompt; its span's first where `kept` is None."""
    found = torch.arange(length)
    dropped = 0
    for span in spans:
        mine = slice(span.start, span.start + span.count)
        first = span.start + dropped
        found[mine] = first if span.kept is None else first + span.kept
        dropped += span.total - span.count
        found[mine.stop :] = torch.arange(mine.stop, length) + dropped
    return found


def slots_left(length: int, visual: Tensor, kept: Tensor) -> Tensor:
    """Long[K + length - N], ascending: which of a range stay, where text between visual tokens does.

    length: of the range in the unpruned prompt; visual: Long[N], its visual tokens; kept: Long[K], those of them.
    """
    visual = visual.to(kept.device)
    stays = torch.ones(length, dtype=torch.bool, device=kept.device)
    stays[visual] = False
    stays[visual[kept]] = True
    return stays.nonzero().squeeze(1)


def shortened(content: Any, count: int) -> Any:
    """What stands for an image in a prompt, with `count` placeholders; what stands around them stays.

    content: ids that are all placeholders, or vLLM's PromptUpdateDetails, which say which of them are.
    """
    if isinstance(content, list):
        return content[:1] * count
    if content.is_embed is None:
        return replace(content, full=content.full[:1] * count)
    embedded = content.is_embed(content.full)
    stays = ~embedded | (embedded.cumsum(0) <= count)
    left = embedded[stays]
    full = [token for token, there in zip(content.full, stays.tolist(), strict=True) if there]
    return replace(content, full=full, is_embed=lambda _: left)
