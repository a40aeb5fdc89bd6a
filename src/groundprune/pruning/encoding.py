"""The encoded images and videos of a batch of prompts: features by prompt row, and what is left of them."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from groundprune.errors import GroundPruneError
from groundprune.probes.tower import MODALITIES, encode, record_of
from groundprune.pruning.prompt import PrunedRow
from groundprune.signals import Need, TowerRecord
from groundprune.tokens.layout import VisualLayout
from groundprune.tokens.sending import sent

if TYPE_CHECKING:
    from groundprune.families.base import Family

_OF_FORWARD = ("output_attentions", "output_hidden_states", "return_dict")  # arguments of the encoder, but not for it


class Encoded:
    """outputs: `mm_encoder_outputs` of a forward. ids: Long[B, L], the prompts; position: Long[A, B, L].

    Where tokens lie is found out on the CPU, so give these there, or wait for the device.
    layouts, features: per row, the layout and Float[N, D], what the LLM would read at its N visual columns.
    """

    def __init__(self, family: Family, config: Any, outputs: dict[str, Any], ids: Tensor, position: Tensor):
        self._outputs, ids, position = outputs, ids.cpu(), position.cpu()
        self._tokens = {m: token for m, token in family.token_ids(config).items() if outputs.get(m) is not None}
        records = {modality: record_of(outputs[modality]) for modality in self._tokens}
        self.record = next(iter(records.values())) if len(records) == 1 else TowerRecord.join(list(records.values()))
        units = {modality: record.units for modality, record in records.items()}
        # Without images a placeholder is a word like any other: a model may say one.
        said = ids if self._tokens else torch.full_like(ids, -1)
        self.layouts: list[VisualLayout] = family.layouts(config, said, position, units)
        self._row: Tensor = torch.cat([torch.full_like(x.column, b) for b, x in enumerate(self.layouts)])
        column = torch.cat([layout.column for layout in self.layouts])
        self._said = ids[self._row, column]  # the placeholder of each feature
        flat = {modality: _flat(outputs[modality].pooler_output) for modality in self._tokens}
        found = sum(map(len, flat.values()))
        if found != len(column):
            raise GroundPruneError(f"the prompts hold {len(column)} image placeholders, the images {found} features")
        order = torch.cat([self._columns_of(modality) for modality in flat]) if flat else column
        features = torch.cat(list(flat.values())) if flat else column.new_empty(0, 0)
        self._features = features if len(flat) < 2 else features[sent(order.argsort(), features.device)]

    @property
    def features(self) -> list[Tensor]:
        return list(self._features.split([len(layout) for layout in self.layouts]))

    def pruned(self, rows: Sequence[PrunedRow], sequences: Sequence[Tensor]) -> dict[str, Any]:
        """New outputs that hold only what each row keeps, an entry per row. The given ones are never changed.

        sequences: per row Long[K], the kept tokens in the order in which they stand in the pruned prompt.
        """
        outputs = dict(self._outputs)
        start, kept, places, features = 0, [], [], []
        for row, sequence in zip(rows, sequences, strict=True):
            kept.append(start + sequence)
            places.append(sum(map(len, features)) + torch.searchsorted(row.selection.kept, sequence))
            features.append(row.features)
            start += len(row.layout)
        index, place, values = torch.cat(kept), torch.cat(places), torch.cat(features)
        for modality, token in self._tokens.items():
            mine = self._said[index] == token
            sizes = self.entries(index[mine])
            rank = (self._said == token).cumsum(0) - 1
            new = list(values[sent(place[mine], values.device)].split(sizes))
            outputs[modality] = rebuilt(self._outputs[modality], new, rank[index[mine]], sizes)
        return outputs

    def entries(self, which: Tensor) -> list[int]:
        """How many of these tokens each row has that has any. `generate` repeats entries for beams by the rows that
        they fill. which: indices into the tokens of all rows, or a mask over them."""
        return [n for n in torch.bincount(self._row[which]).tolist() if n]

    def _columns_of(self, modality: str) -> Tensor:
        """Long: which of the visual columns of all rows belong to the modality."""
        return (self._said == self._tokens[modality]).nonzero().squeeze(1)


def encode_inputs(base: Any, family: Family, inputs: dict[str, Any], needs: frozenset[Need]) -> dict[str, Any]:
    """Run the tower as `generate` would: its arguments leave the inputs, `mm_encoder_outputs` joins them."""
    if inputs.get("mm_encoder_outputs"):
        return inputs
    outputs: dict[str, Any] = {}
    used = set(MODALITIES.values())
    for modality, main in MODALITIES.items():
        if inputs.get(main) is None or not hasattr(base, f"get_{modality}_features"):
            continue
        names = inspect.signature(getattr(base, f"get_{modality}_features")).parameters
        arguments = {name: inputs[name] for name in names if name not in _OF_FORWARD and inputs.get(name) is not None}
        outputs[modality] = encode(base, family, modality, arguments, needs)
        used |= set(arguments)
    rest = {name: value for name, value in inputs.items() if name not in used}
    return {**rest, "mm_encoder_outputs": outputs} if outputs else dict(inputs)


def has_visual(inputs: dict[str, Any]) -> bool:
    """Whether a forward is given images or videos, encoded or not."""
    return bool(inputs.get("mm_encoder_outputs")) or any(inputs.get(main) is not None for main in MODALITIES.values())


def _flat(features: Any) -> Tensor:
    """[all visual tokens of the batch, D], whether the model gives a tensor or a list per image."""
    return features.flatten(0, -2) if torch.is_tensor(features) else torch.cat(list(features))


def rebuilt(output: Any, features: list[Tensor], index: Tensor, sizes: list[int]) -> Any:
    """An output like `output` with these features; of each deepstack level (Qwen3-VL) the rows of `index`."""
    # One token an entry: SmolVLM (before 5.23) wants the placeholders of a row to be whole entries.
    stacked = torch.is_tensor(output.pooler_output)
    new = type(output)(pooler_output=torch.cat(features)[:, None] if stacked else features)
    levels = getattr(output, "deepstack_features", None)
    if levels is not None:
        new.deepstack_features = [list(_flat(level)[sent(index, level[0].device)].split(sizes)) for level in levels]
    return new
