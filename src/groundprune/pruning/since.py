"""The encoded images of what is new in a conversation, where those of all its turns are given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from groundprune.pruning.encoding import Encoded, rebuilt
from groundprune.tokens.layout import VisualLayout


class Since(Encoded):
    """Of the columns from `column` on alone, which no image straddles; they are counted from there."""

    def __init__(self, whole: Encoded, column: int):
        vars(self).update(vars(whole))
        later = torch.cat([layout.column for layout in whole.layouts]) >= column
        lengths = [len(unit) for unit in whole.record.units]
        self.layouts = [_since(layout, column, lengths) for layout in whole.layouts]
        self._row, self._said, self._features = whole._row[later], whole._said[later], _rows(whole._features, later)
        self._outputs, self._tokens = {}, {}
        for modality, token in whole._tokens.items():
            new = later[whole._columns_of(modality)]
            if bool(new.any()):
                mine = _rows(whole._features, later & (whole._said == token))
                sizes = self.entries(self._said == token)
                values, index = list(mine.split(sizes)), new.nonzero().squeeze(1)
                self._outputs[modality] = rebuilt(whole._outputs[modality], values, index, sizes)
                self._tokens[modality] = token

    @property
    def outputs(self) -> dict[str, Any]:
        """`mm_encoder_outputs` of what is new, all of it, with no modality that holds nothing."""
        return self._outputs


def _rows(features: Tensor, which: Tensor) -> Tensor:
    """Of features on any device those that are named: Bool[N], on the CPU."""
    return features[which.nonzero().squeeze(1).to(features.device)]


def _since(layout: VisualLayout, column: int, lengths: Sequence[int]) -> VisualLayout:
    """Of the columns from `column` on, counted from there; images too. lengths: tokens of each unit."""
    kept = (layout.column >= column).nonzero().squeeze(1)
    new = layout.subset(kept)
    unit = list(layout.unit)
    while unit and sum(lengths[i] for i in unit) > len(kept):
        del unit[0]
    first = int(new.image.min()) if len(kept) else 0
    moved = {"column": new.column - column, "image": new.image - first, "length": layout.length - column}
    return replace(new, **moved, unit=tuple(unit))
