"""One prefill without what a pruner drops of it: what is to be done, the unpruned prompts, and what is left."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from groundprune.errors import GroundPruneError, Unservable
from groundprune.families.base import Family, family_of
from groundprune.probes.clip_text import find_text_tower
from groundprune.probes.tower import recordable
from groundprune.pruners.base import Pruner, Stage
from groundprune.pruners.registry import refusal
from groundprune.pruning.encoding import Encoded, encode_inputs
from groundprune.pruning.prompt import PrunedInputs, PrunedPrompt, PrunedRow, make_segment
from groundprune.pruning.unwrapping import unwrapped
from groundprune.signals import CLIP_PATCHES, CLIP_TEXT, Signals, TextEmbedder
from groundprune.tokens.positions import Policy, parse_policy
from groundprune.tokens.selection import Selection

Text = Sequence[str] | None
TextTower = str | Path | TextEmbedder | None


@dataclass(frozen=True)
class Plan:
    """What is to be pruned, and how. before: the stage before the LLM, if any; inside: those between its layers."""

    model: Any
    family: Family
    pruner: Pruner
    before: Stage | None
    inside: list[Stage]
    policy: Policy
    text: Text
    embedder: TextEmbedder | None

    @staticmethod
    def of(model: Any, pruner: Pruner, positions: str | Policy, text: Text, text_tower: TextTower) -> Plan:
        """Raises Unservable or GroundPruneError, before any work, for what cannot be done."""
        if not isinstance(pruner, Pruner):
            raise GroundPruneError(f"pruner must be a Pruner, such as gp.ClsVisual(keep=0.5); got {pruner!r}")
        model = unwrapped(model)
        family, pruner = family_of(model.config), pruner.for_model(model.config)
        stages = pruner.stages(model.config.get_text_config().num_hidden_layers)
        before = [stage for stage in stages if stage.layer is None]
        if len(before) > 1 or stages[: len(before)] != before:
            raise GroundPruneError(f"{pruner.label}: one stage before the LLM at most, and first")
        policy = parse_policy(positions, pruner.official(model.config))
        embedder = _check_needs(family, model, pruner, text, text_tower)
        inside = stages[len(before) :]
        return Plan(model, family, pruner, before[0] if before else None, inside, policy, text, embedder)


def _check_needs(
    family: Family, model: Any, pruner: Pruner, text: Text, text_tower: TextTower
) -> TextEmbedder | None:
    check = functools.partial(family.check, model.config)
    for need in sorted(pruner.needs, key=str):
        try:
            check(need)
        except Unservable as error:
            raise refusal(pruner, error, check) from error
    if CLIP_TEXT in pruner.needs and text is None:
        raise Unservable(f"{pruner.label} reads the prompt's text: pass text=[...], one entry per prompt row")
    if not pruner.needs & {CLIP_TEXT, CLIP_PATCHES}:
        return None
    embedder = find_text_tower(text_tower, model)
    if embedder is None:
        raise Unservable(
            f"{pruner.label} needs a CLIP text tower and this checkpoint has none: pass text_tower=folder or Hub id "
            "(on the command line --text-tower) of the CLIP model whose vision tower this is"
        )
    return embedder


@dataclass(frozen=True, eq=False)
class Prefill:
    """A batch of unpruned prompts, encoded. position: Long[A, B, L]; valid: Bool[B, L], False = padding."""

    inputs: dict[str, Any]
    encoded: Encoded
    position: Tensor
    valid: Tensor


def encoded_prefill(plan: Plan, inputs: dict[str, Any]) -> Prefill:
    """Run the tower, and find out which ids the unpruned model would use."""
    ids, mask = checked_ids(inputs)
    valid = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()
    position = plan.family.positions(plan.model.base_model, with_position_ids(plan, inputs, valid))
    inputs = encode_inputs(plan.model.base_model, plan.family, inputs, recordable(plan.pruner.needs))
    encoded = Encoded(plan.family, plan.model.config, inputs.get("mm_encoder_outputs") or {}, ids, position)
    return Prefill(inputs, encoded, position, valid)


def checked_ids(inputs: dict[str, Any]) -> tuple[Tensor, Tensor | None]:
    """input_ids and attention_mask. Raises Unservable for inputs that do not survive pruning."""
    ids, mask = inputs.get("input_ids"), inputs.get("attention_mask")
    if ids is None:
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
    kept, orders = [s.kept for s, _ in chosen], [s.order for s, _ in chosen]
    segment = make_segment(0, plan.policy, position, valid, layouts, kept, orders)
    rows, compaction = [], segment.compaction
    for b, (layout, (selection, features)) in enumerate(zip(layouts, chosen, strict=True)):
        mine = compaction.mask[b]
        rows.append(PrunedRow(layout, selection, compaction.index[b, mine], segment.position[:, b, mine], features))
    # As `generate` counts on: from the last column, which a video's times may run ahead of.
    last = (valid * torch.arange(valid.shape[1], device=valid.device)).amax(1)
    next_position = position.amax(0).gather(1, last[:, None])[:, 0] + 1
    prompt = PrunedPrompt(rows, [segment], next_position, ids)
    if not prompt.pruned and not plan.policy.changes_whole_rows:
        # Nothing was dropped: the stock model, to the bit. It would make M-RoPE ids of what encoding used up.
        whole = inputs if len(position) == 1 else {**inputs, "position_ids": position}
        return PrunedInputs(whole, prompt, str(plan.policy), ids)
    implementation = plan.model.config.get_text_config()._attn_implementation or ""
    if plan.policy.splits_flash_sequences and "flash" in implementation:
        raise Unservable(f"flash attention reads the ids of {plan.policy} as packed sequences; use sdpa")
    return PrunedInputs(_compacted(inputs, prompt, encoded), prompt, str(plan.policy), ids)


def _select(plan: Plan, encoded: Encoded) -> list[tuple[Selection, Tensor]]:
    """Per row the selection and the features of the kept slots."""
    layouts = encoded.layouts
    if plan.text is not None and len(plan.text) != len(layouts):
        raise GroundPruneError(
            f"text= must hold an entry per prompt row: {len(layouts)} rows, {len(plan.text)} given"
        )
    chosen: list[tuple[Selection, Tensor]] = []
    for b, (layout, features) in enumerate(zip(layouts, encoded.features, strict=True)):
        if plan.before is None or not len(layout):
            chosen.append((Selection(torch.arange(len(layout), device=layout.column.device)), features))
            continue
        prompt = plan.text[b] if plan.text is not None else None
        signals = Signals(layout, features.detach(), encoded.record, prompt, plan.embedder)
        with torch.no_grad():
            selection = plan.pruner(signals, layout, plan.before)
        chosen.append((selection, _kept_features(plan, features, selection, signals)))
    return chosen


def _kept_features(plan: Plan, features: Tensor, selection: Selection, signals: Signals) -> Tensor:
    merge = selection.merge
    if merge is None:
        return features[selection.kept]
    if merge.space == "tower":
        mixed = merge.weight @ signals.tower_hidden()
        new = plan.family.project(plan.model.base_model, mixed.to(features.dtype))
    else:
        new = (merge.weight @ features.float()).to(features.dtype)
    # Newlines have no place in the tower: they stay what they are.
    is_patch = signals.layout.is_patch[selection.kept, None]
    return torch.where(is_patch, new, features[selection.kept])


def _compacted(inputs: dict[str, Any], prompt: PrunedPrompt, encoded: Encoded) -> dict[str, Any]:
    """The inputs without the dropped columns. The caller's own objects are never changed."""
    compaction, position = prompt.compaction, prompt.segments[0].position
    new = dict(inputs)
    new["mm_encoder_outputs"] = encoded.pruned(prompt.rows, prompt.segments[0].kept)
    new["input_ids"] = compaction.gather(inputs["input_ids"])
    new["position_ids"] = position if len(position) > 1 else position[0]
    new["attention_mask"] = compaction.mask.long()
    if len(position) == 1 and bool(compaction.mask.all()):
        # `generate` leaves out a mask of ones, and without mask and cache gaps between ids are read as packed
        # sequences. A 2 is as true as a 1.
        new["attention_mask"][:, 0] = 2
    for name in ("token_type_ids", "mm_token_type_ids"):
        if new.get(name) is not None:
            new[name] = compaction.gather(new[name])
    if new.get("labels") is not None:
        new["labels"] = compaction.gather(new["labels"], fill=-100)
    return new
