"""One prefill without what a pruner drops of it: the unpruned prompts, encoded, and what is left of them."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from groundprune.errors import GroundPruneError, Unservable
from groundprune.probes.tower import recordable
from groundprune.pruners.settling import Settling
from groundprune.pruning.encoding import Encoded, encode_inputs
from groundprune.pruning.merged import merged
from groundprune.pruning.plan import Plan
from groundprune.pruning.prompt import PrunedPrompt, PrunedRow, Segment
from groundprune.signals import Signals
from groundprune.tokens.compaction import placed
from groundprune.tokens.layout import VisualLayout
from groundprune.tokens.selection import Selection
from groundprune.tokens.sending import sent

_OUTPUTS = "mm_encoder_outputs"


class PrunedInputs(dict[str, Any]):
    """What `model(**short)` and `model.generate(**short)` take, and what became of the prompt.

    Attributes:
        prompt: what stayed, and with which ids, in full.
        positions: the position policy by name.
    """

    def __init__(self, inputs: dict[str, Any], prompt: PrunedPrompt, positions: str, given: Tensor):
        super().__init__(inputs)
        self.prompt, self.positions, self._given = prompt, positions, given

    def __getitem__(self, name: str) -> Any:
        value = super().__getitem__(name)
        # For beams and samples `generate` repeats what it is given in place: each call gets an output of its own.
        return {of: copy.copy(output) for of, output in value.items()} if name == _OUTPUTS and value else value

    def __iter__(self) -> Iterator[str]:  # of its own, so that `**short` goes through __getitem__
        return super().__iter__()

    @property
    def kept(self) -> list[Tensor]:
        """Long[K] per prompt row, on the CPU: which of its N visual tokens stayed, ascending."""
        return [row.selection.kept for row in self.prompt.rows]

    @property
    def layout(self) -> list[VisualLayout]:
        """Per prompt row, where its N visual tokens lie."""
        return [row.layout for row in self.prompt.rows]

    def restore(self, sequences: Tensor) -> Tensor:
        """Put the prompt as it was before pruning in front of what was generated.

        Args:
            sequences: what `generate` gave, Long[B * copies, S + new]; rows are repeated for `num_return_sequences`.

        Returns:
            Long[B * copies, L + new], L being the length of the `input_ids` that were pruned.
        """
        said = sequences[:, self["input_ids"].shape[1] :]
        prompt = self._given.to(said.device)
        return torch.cat([prompt.repeat_interleave(len(said) // len(prompt), dim=0), said], dim=1)


@dataclass(frozen=True, eq=False)
class Prefill:
    """A batch of unpruned prompts, encoded.

    position: Long[A, B, L]; valid: Bool[B, L], False = padding; both on the CPU, where all is settled that does not
    read features.
    """

    inputs: dict[str, Any]
    encoded: Encoded
    position: Tensor
    valid: Tensor


def encoded_prefill(plan: Plan, inputs: dict[str, Any]) -> Prefill:
    """Run the tower, and find out which ids the unpruned model would use."""
    ids, mask = checked_ids(inputs)
    valid = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()
    position = plan.family.positions(plan.model.base_model, with_position_ids(plan, inputs, valid))
    # One copy, before the tower runs: what follows does not wait for it.
    ids, valid, *axes = torch.stack([ids, valid, *position]).cpu()
    position, valid = torch.stack(axes), valid.bool()
    inputs = encode_inputs(plan.model.base_model, plan.family, inputs, recordable(plan.pruner.needs))
    encoded = Encoded(plan.family, plan.model.config, inputs.get(_OUTPUTS) or {}, ids, position)
    return Prefill(inputs, encoded, position, valid)


def checked_ids(inputs: dict[str, Any]) -> tuple[Tensor, Tensor | None]:
    """input_ids and attention_mask. Raises Unservable for inputs that do not survive pruning."""
    ids, mask = inputs.get("input_ids"), inputs.get("attention_mask")
    if ids is None or inputs.get("inputs_embeds") is not None:
        raise Unservable("pruning reads input_ids to find the visual tokens; inputs_embeds do not tell them")
    if mask is not None and (not isinstance(mask, Tensor) or mask.ndim != 2):
        raise Unservable("pruning needs the 2-D attention mask [batch, length] on prefill")
    if torch.is_tensor(inputs.get("logits_to_keep")):
        raise Unservable("logits_to_keep as a tensor of columns does not survive pruning; give a number")
    return ids, mask


def with_position_ids(plan: Plan, inputs: dict[str, Any], valid: Tensor) -> dict[str, Any]:
    """With ids where the caller gave none and the model has but one axis: as `generate` counts, without padding."""
    if inputs.get("position_ids") is not None or plan.family.position_axes > 1:
        return inputs
    return {**inputs, "position_ids": (valid.cumsum(1) - 1).clamp(min=0)}


def shortened(plan: Plan, prefill: Prefill) -> PrunedInputs:
    """The inputs of a prefill without what the pruner drops of it."""
    inputs, encoded, position, valid = prefill.inputs, prefill.encoded, prefill.position, prefill.valid
    layouts, ids = encoded.layouts, inputs["input_ids"]
    if not all(bool(valid[b, layout.column].all()) for b, layout in enumerate(layouts)):
        raise Unservable("attention_mask hides image placeholders; pruning chooses among all tokens of an image")
    chosen = _select(plan, encoded)
    selections = [selection for selection, _ in chosen]
    kept, orders = [s.kept for s in selections], [s.order for s in selections]
    segment = Segment(0, *placed(plan.policy, position, valid, layouts, kept, orders))
    rows = []
    for b, (layout, (selection, features)) in enumerate(zip(layouts, chosen, strict=True)):
        mine = segment.compaction.mask[b]
        column, ids_of_row = segment.compaction.index[b, mine], segment.position[:, b, mine]
        rows.append(PrunedRow(layout, selection, column, ids_of_row, features))
    segment = segment.to(ids.device)
    next_position = position.amax(0).masked_fill(~valid, -1).amax(1) + 1
    prompt = PrunedPrompt(rows, [segment], sent(next_position, ids.device), ids)
    unchanged = all(len(left) == len(layout) for left, layout in zip(kept, layouts, strict=True))
    if unchanged and not plan.policy.changes_whole_rows:
        # Nothing was dropped: the stock model, to the bit. It would make M-RoPE ids of what encoding used up.
        same = dict(inputs)
        if len(position) > 1:
            same["position_ids"] = sent(position, ids.device)
        return PrunedInputs(same, prompt, str(plan.policy), ids)
    implementation = plan.model.config.get_text_config()._attn_implementation or ""
    if plan.policy.splits_flash_sequences and "flash" in implementation:
        raise Unservable(f"flash attention reads the ids of {plan.policy} as packed sequences; use sdpa")
    return PrunedInputs(_compacted(inputs, rows, segment, encoded), prompt, str(plan.policy), ids)


def _select(plan: Plan, encoded: Encoded) -> list[tuple[Selection, Tensor]]:
    """Per row the selection and the features of the kept slots."""
    layouts = encoded.layouts
    if plan.text is not None and len(plan.text) != len(layouts):
        raise GroundPruneError(
            f"text= must hold one entry per prompt row: {len(layouts)} rows, {len(plan.text)} given"
        )
    if plan.before is None:
        return [(_whole(layout), features) for layout, features in zip(layouts, encoded.features, strict=True)]
    rows: list[Signals] = []
    with torch.no_grad(), Settling() as settling:
        for b, (layout, features) in enumerate(zip(layouts, encoded.features, strict=True)):
            prompt = plan.text[b] if plan.text is not None else None
            there = layout.to(features.device)
            rows.append(Signals(there, features.detach(), encoded.record, prompt, plan.embedder))
        chosen = [
            plan.pruner(row, row.layout, plan.before) if len(row.layout) else _whole(row.layout) for row in rows
        ]
    return [
        (selection, _features(plan, features, selection, row))
        for selection, features, row in zip(settling.read(chosen), encoded.features, rows, strict=True)
    ]


def _whole(layout: VisualLayout) -> Selection:
    """All tokens stay."""
    return Selection(torch.arange(len(layout)))


def _features(plan: Plan, features: Tensor, selection: Selection, signals: Signals) -> Tensor:
    """[K, D]: what the LLM reads in the kept slots. features: [N, D], of all tokens."""
    if selection.merge is not None:
        return merged(plan, features, selection, signals)
    return features[sent(selection.kept, features.device)]


def _compacted(
    inputs: dict[str, Any], rows: Sequence[PrunedRow], segment: Segment, encoded: Encoded
) -> dict[str, Any]:
    """The inputs without the dropped columns. The caller's own objects are never changed."""
    compaction, position = segment.compaction, segment.position
    new = dict(inputs)
    new[_OUTPUTS] = encoded.pruned(rows, segment.kept)
    new["input_ids"] = compaction.gather(inputs["input_ids"])
    new["position_ids"] = position if len(position) > 1 else position[0]
    new["attention_mask"] = compaction.mask.long()
    if len(position) == 1 and compaction.full:
        # `generate` leaves out a mask of ones, and without mask and cache gaps between ids are read as packed
        # sequences. A 2 is as true as a 1.
        new["attention_mask"][:, 0] = 2
    for name in ("token_type_ids", "mm_token_type_ids"):
        if new.get(name) is not None:
            new[name] = compaction.gather(new[name])
    if new.get("labels") is not None:
        new["labels"] = compaction.labels(new["labels"])
    return new
