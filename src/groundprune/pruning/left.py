"""What else a decoder is given by column, labels and features, for the slots that are left after its stages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from groundprune.pruning.passage import Passage
from groundprune.tokens.compaction import IGNORED


def labels_left(passage: Passage, labels: Tensor) -> Tensor:
    """Those of the slots that are left in the last layer."""
    # Not by the number of columns: a long row that loses nothing keeps it while others move.
    if len(passage.prompt.segments) == 1:
        return labels
    last = passage.prompt.segments[-1].compaction
    labels = torch.gather(labels, 1, passage.entered.slots_of(last.index).to(labels.device))
    return labels.masked_fill(~last.predicted.to(labels.device), IGNORED)


def deepstack(original: Callable[..., Any], under_way: Callable[[], Passage | None]) -> Callable[..., Any]:
    """Qwen3-VL adds features to visual states between its first layers, by a mask over what entered the LLM."""

    def process(states: Tensor, mask: Tensor, features: Tensor) -> Tensor:
        passage = under_way()
        if passage is not None and len(passage.prompt.segments) > 1:
            left = passage.prompt.segments[-1].compaction
            take = passage.entered.slots_of(left.index)
            index = (mask.flatten().cumsum(0) - 1).view_as(mask).gather(1, take)
            mask = torch.gather(mask, 1, take) & left.mask
            features = features[index[mask]]
        return original(states, mask, features)

    return process
