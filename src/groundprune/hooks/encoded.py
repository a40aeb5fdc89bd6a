"""The encoded images and videos of one prefill: features by prompt row, and what is left of them after pruning."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from groundprune.errors import GroundPruneError
from groundprune.hooks.tower import MODALITIES, record_of
from groundprune.layout import VisualLayout
from groundprune.signals import TowerRecord

if TYPE_CHECKING:
    from groundprune.families.base import Family
    from groundprune.hooks.state import PrunedRow


class Encoded:
    """outputs: `mm_encoder_outputs` of a forward. ids: Long[B, L], the prompts they belong to."""

    def __init__(self, family: Family, config: Any, outputs: dict[str, Any], ids: Tensor, position: Tensor):
        self._outputs, self._ids = outputs, ids
        self._tokens = {m: token for m, token in family.token_ids(config).items() if outputs.get(m) is not None}
        records = {modality: record_of(outputs[modality]) for modality in self._tokens}
        self.record = TowerRecord.join(list(records.values()))
        self.numbers = {record.number for record in records.values()}
        # `generate` repeats each row and its images for beams and return sequences after the tower has run.
        self.copies = max(len(outputs[m].pooler_output) // record.entries for m, record in records.items())
        units = {modality: record.units for modality, record in records.items()}
        once = slice(None, None, self.copies)
        self.layouts = family.layouts(config, ids[once], position[:, once], units)

    @cached_property
    def features(self) -> list[Tensor]:
        """[N, D] per row: what the LLM would read at its N visual columns."""
        flat = {modality: _flat(self._outputs[modality].pooler_output) for modality in self._tokens}
        wanted = self.copies * sum(map(len, self.layouts))
        if sum(map(len, flat.values())) != wanted:
            raise GroundPruneError(
                f"the prompts hold {wanted} image placeholders, the images {sum(map(len, flat.values()))} features"
            )
        rows, start = [], dict.fromkeys(flat, 0)
        for b in range(len(self._ids)):
            layout = self.layouts[b // self.copies]
            row = next(iter(flat.values())).new_empty(len(layout), next(iter(flat.values())).shape[-1])
            for modality, values in flat.items():
                mine = self._of(modality, b, layout)
                count = int(mine.sum())
                row[mine] = values[start[modality] : start[modality] + count]
                start[modality] += count
            rows.append(row)
        return rows

    def pruned(self, rows: Sequence[PrunedRow], sequences: Sequence[Tensor]) -> dict[str, Any]:
        """New outputs that hold only what each row keeps. The given ones are never changed.

        sequences: per row Long[K], the kept tokens in the order in which they stand in the pruned prompt.
        """
        outputs = dict(self._outputs)
        for modality in self._tokens:
            features, index, start = [], [], 0
            for b, (row, kept) in enumerate(zip(rows, sequences, strict=True)):
                mine = self._of(modality, b, row.layout)
                features.append(row.features[torch.searchsorted(row.selection.kept, kept[mine[kept]])])
                index.append(start + (mine.cumsum(0) - 1)[kept[mine[kept]]])
                start += int(mine.sum())
            outputs[modality] = _rebuilt(self._outputs[modality], torch.cat(features), torch.cat(index))
        return outputs

    def _of(self, modality: str, row: int, layout: VisualLayout) -> Tensor:
        """Bool[N]: which of a row's visual columns belong to the modality."""
        return self._ids[row, layout.column] == self._tokens[modality]


def encode_inputs(base: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """Run the tower as `generate` would: its arguments leave the inputs, `mm_encoder_outputs` joins them."""
    outputs: dict[str, Any] = {}
    used: set[str] = set()
    for modality, main in MODALITIES.items():
        encoder = getattr(base, f"get_{modality}_features", None)
        if encoder is None or inputs.get(main) is None:
            continue
        names = [name for name in inspect.signature(encoder).parameters if inputs.get(name) is not None]
        outputs[modality] = encoder(**{name: inputs[name] for name in names}, return_dict=True)
        used |= set(names)
    rest = {name: value for name, value in inputs.items() if name not in used | set(MODALITIES.values())}
    return {**rest, "mm_encoder_outputs": outputs}


def has_visual(inputs: dict[str, Any]) -> bool:
    """Whether a forward is given images or videos, encoded or not."""
    return bool(inputs.get("mm_encoder_outputs")) or any(inputs.get(main) is not None for main in MODALITIES.values())


def _flat(features: Any) -> Tensor:
    """[all visual tokens of the batch, D], whether the model gives a tensor or a list per image."""
    return features.flatten(0, -2) if torch.is_tensor(features) else torch.cat(list(features))


def _rebuilt(output: Any, features: Tensor, index: Tensor) -> Any:
    """An output like `output` with these features; of each deepstack level (Qwen3-VL) the rows of `index`."""
    # One token an entry: SmolVLM (before 5.23) wants the placeholders of a row to be whole entries.
    new = type(output)(pooler_output=features[:, None] if torch.is_tensor(output.pooler_output) else [features])
    levels = getattr(output, "deepstack_features", None)
    if levels is not None:
        new.deepstack_features = [[_flat(level)[index]] for level in levels]
    return new
