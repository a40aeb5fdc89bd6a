"""`gp.encode`: images go through tower and projector once, to be pruned many times."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from groundprune.errors import Unservable
from groundprune.families.base import family_of
from groundprune.probes.tower import RECORD_ATTRIBUTE, recordable
from groundprune.pruners.base import Pruner
from groundprune.pruning.encoding import Encoded, encode_inputs
from groundprune.pruning.wrapped import refuse_sharded, unwrapped
from groundprune.signals import TowerRecord


class EncodedImages:
    """Prompts whose images went through tower and projector once, to be pruned many times; `gp.encode` makes it.

    They are held on the CPU: a GPU has better use for its memory, and a batch is there in a moment.
    """

    def __init__(
        self,
        rows: Sequence[tuple[Tensor, list[Tensor], TowerRecord]],
        output_type: type,
        stacked: bool,
        device: torch.device | str,
    ):
        self._rows, self._output_type, self._stacked, self._device = list(rows), output_type, stacked, device

    def __len__(self) -> int:
        return len(self._rows)

    def select(self, rows: Sequence[int], device: torch.device | str | None = None) -> dict[str, Any]:
        """What these prompts' images became, for `gp.prune_inputs` and, in a `gp.prune` context, `generate`.

        Args:
            rows: which prompts, in this order.
            device: where to, by default where the images were encoded.

        Returns:
            A fresh `mm_encoder_outputs`, which `generate` may change freely; empty where none of them has an image.
        """
        device = self._device if device is None else device
        chosen = [self._rows[i] for i in rows]
        record = _moved(TowerRecord.join([record for _, _, record in chosen]), device)
        sizes = [len(unit) for unit in record.units]
        if not sizes:
            return {}
        features = list(torch.cat([features for features, _, _ in chosen]).to(device).split(sizes))
        output = self._output_type(pooler_output=torch.stack(features) if self._stacked else features)
        if chosen[0][1]:
            levels = zip(*(levels for _, levels, _ in chosen), strict=True)
            output.deepstack_features = [list(torch.cat(level).to(device).split(sizes)) for level in levels]
        setattr(output, RECORD_ATTRIBUTE, record)
        return {"image": output}

    def take(self, rows: Sequence[int]) -> EncodedImages:
        """Some of the prompts, as copies: what is left out can be freed, and a pickle holds no more than them.

        Args:
            rows: which prompts, in this order.

        Returns:
            EncodedImages of them.
        """
        chosen = [self._rows[i] for i in rows]
        copies = [
            (features.clone(), [level.clone() for level in levels], replace(record, values=_cloned(record)))
            for features, levels, record in chosen
        ]
        return EncodedImages(copies, self._output_type, self._stacked, self._device)

    @staticmethod
    def join(parts: Sequence[EncodedImages]) -> EncodedImages:
        """One batch after another, as one.

        Args:
            parts: at least one, all of one model and the same pruners.

        Returns:
            EncodedImages of all prompts.
        """
        rows = [row for part in parts for row in part._rows]
        return EncodedImages(rows, parts[0]._output_type, parts[0]._stacked, parts[0]._device)


@torch.no_grad()
def encode(model: Any, inputs: dict[str, Any], pruners: Iterable[Pruner]) -> EncodedImages:
    """Run the vision tower once over the images of `inputs` and record what all of `pruners` score by.

    Args:
        model: a transformers model of a known family, or a wrapper of one.
        inputs: what the processor gives, input_ids Long[B, L] and images.
        pruners: those that the images are to be pruned by.

    Returns:
        EncodedImages, an entry per prompt row.

    Raises:
        Unservable: the model cannot give what one of the pruners needs, or the inputs hold videos.
    """
    model = unwrapped(model)
    refuse_sharded(model, "gp.encode")
    family, base = family_of(model.config), model.base_model
    needs = frozenset().union(*(pruner.needs for pruner in pruners))
    for need in sorted(needs, key=str):
        family.check(model.config, need)
    ids, position = inputs["input_ids"], family.positions(base, inputs)
    outputs = encode_inputs(base, family, inputs, recordable(needs)).get("mm_encoder_outputs") or {}
    if list(outputs) != ["image"]:
        raise Unservable(f"only images are encoded ahead of time (got: {', '.join(outputs) or 'none'})")
    encoded = Encoded(family, model.config, outputs, ids, position)
    output, rows, start = outputs["image"], [], 0
    levels = [torch.cat(list(level)) for level in getattr(output, "deepstack_features", None) or []]
    for features, layout in zip(encoded.features, encoded.layouts, strict=True):
        mine = [level[start : start + len(layout)] for level in levels]
        record = _moved(encoded.record.select(layout.unit), "cpu")
        # Their fingerprints are taken; on their own the pixels would outweigh the features.
        record.units = [replace(unit, pixels=unit.pixels.new_empty(0)) for unit in record.units]
        rows.append((features.cpu(), [level.cpu() for level in mine], record))
        start += len(layout)
    return EncodedImages(rows, type(output), torch.is_tensor(output.pooler_output), ids.device)


def without_pixels(inputs: Mapping[str, Any]) -> dict[str, Tensor]:
    """What the LLM needs beside encoded images: pixels, and what else is as large, are for the tower alone."""
    return {k: v for k, v in inputs.items() if torch.is_tensor(v) and v.ndim <= 2 and "pixel" not in k}


def _cloned(record: TowerRecord) -> dict[Any, list[Tensor]]:
    return {need: [value.clone() for value in of] for need, of in record.values.items()}


def _moved(record: TowerRecord, device: torch.device | str) -> TowerRecord:
    values = {need: [value.to(device) for value in of] for need, of in record.values.items()}
    return replace(record, values=values)
