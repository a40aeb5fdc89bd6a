"""What a pruner may read of the decoder layers during a prefill: states, queries, keys, values, attention rows.

Nothing is computed twice: a layer's queries and keys are kept as it hands them to its attention function, and only
the rows that are asked for become attention. For the stage's own layer see `groundprune.probes.look_ahead`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from groundprune.errors import Unservable
from groundprune.probes.attention import AttentionCall, probe
from groundprune.signals import LLMStates
from groundprune.tokens.compaction import Compaction
from groundprune.tokens.masks import allowed_by

BEFORE_ROPE = {"q": ("q_norm", "q_proj"), "k": ("k_norm", "k_proj")}  # the last module before the rotary embedding


@dataclass(eq=False)
class LayerRecord:
    """What one decoder layer was given and made of it. compaction: of the slots that it saw."""

    compaction: Compaction
    hidden: Tensor
    call: AttentionCall | None = None
    before_rope: dict[str, Tensor] = field(default_factory=dict)


@contextlib.contextmanager
def record_layers(records: dict[int, LayerRecord], layers: dict[int, nn.Module]) -> Iterator[None]:
    """While active, the attention calls of `layers` (by index) go into their records."""
    with contextlib.ExitStack() as stack:
        targets: dict[nn.Module, dict[Any, Any]] = {}
        for index, layer in layers.items():
            attention = layer.get_submodule("self_attn")

            def keep(call: AttentionCall, index: int = index) -> None:
                records[index].call = call

            targets[attention] = {index: keep}
            for name in BEFORE_ROPE:
                hook = keep_output(records, index, name)
                stack.callback(last_before_rope(attention, name).register_forward_hook(hook).remove)
        stack.enter_context(probe(targets))
        yield


class RowStates(LLMStates):
    """The view of one prompt row at a stage.

    columns: Long[N], the visual columns that are left, in sequence. last: Long[1], the column of the prompt's last
    token. look_ahead: completes the record of the stage's own layer. frequencies: see `LayerInputs.frequencies`.
    """

    def __init__(
        self,
        row: int,
        columns: Tensor,
        last: Tensor,
        records: dict[int, LayerRecord],
        norm: nn.Module,
        look_ahead: Callable[[], None],
        frequencies: Callable[[int], Tensor],
    ):
        self._row, self._columns, self._last, self._records, self._norm = row, columns, last, records, norm
        self._look_ahead, self._frequencies = look_ahead, frequencies

    def read(self, layer: int, kind: str, rows: Tensor | None, rope: bool) -> Tensor:
        if kind == "frequencies":
            return self._frequencies(layer)
        record = self._records.get(layer)
        if record is None:
            raise Unservable(f"decoder layer {layer} was not kept for this stage: name it in the pruner's llm_layers")
        where = self._slots(record, self._columns if rows is None else rows)
        if kind in ("hidden", "normed"):
            states = record.hidden[self._row, where]
            return self._norm(states) if kind == "normed" else states
        if record.call is None:
            self._look_ahead()
        call = record.call
        assert call is not None
        if kind == "attention":
            queries = self._slots(record, self._last) if rows is None else where
            return self._attention(record, call, queries)[:, :, self._slots(record, self._columns)]
        if not rope and kind in BEFORE_ROPE:
            value, wanted = record.before_rope[kind], call.query if kind == "q" else call.key
            if value.ndim == 3:
                value = value.unflatten(-1, (-1, wanted.shape[-1]))
            # Norms of single heads stand on either side of the transposition.
            value = value if value.shape == wanted.shape else value.transpose(1, 2)
        else:
            value = {"q": call.query, "k": call.key, "v": call.value}[kind]
        return value[self._row][:, where]

    def _attention(self, record: LayerRecord, call: AttentionCall, queries: Tensor) -> Tensor:
        """[H, R, S]"""
        slots = torch.arange(record.compaction.slots, device=queries.device)
        if call.mask is not None and call.mask.ndim == 4:
            allowed = allowed_by(call.mask)[min(self._row, len(call.mask) - 1), :1, queries][..., : len(slots)]
        else:
            allowed = (record.compaction.mask[self._row] & (slots <= queries[:, None]))[None]
        mine = slice(self._row, self._row + 1)
        query, key = call.query[mine][:, :, queries], call.key[mine][:, :, : len(slots)]
        part = replace(call, query=query, key=key, mask=allowed[None])
        return part.rows(slice(None))[0]

    def _slots(self, record: LayerRecord, columns: Tensor) -> Tensor:
        return record.compaction.slots_of(columns, self._row)


def last_before_rope(attention: nn.Module, name: str) -> nn.Module:
    """The module whose output is "q" or "k" before the rotary embedding."""
    for path in BEFORE_ROPE[name]:
        module = getattr(attention, path, None)
        if isinstance(module, nn.Module):
            return module
    raise Unservable(f"{type(attention).__name__} has no {' or '.join(BEFORE_ROPE[name])} to read from")


def keep_output(records: dict[int, LayerRecord], index: int, name: str) -> Any:
    """A hook behind that module."""

    def hook(module: nn.Module, args: Any, output: Tensor) -> None:
        records[index].before_rope[name] = output

    return hook
