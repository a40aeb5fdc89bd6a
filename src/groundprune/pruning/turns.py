"""Later turns of a conversation on the cache that earlier ones filled; a step of a decode loop is the shortest turn.

The caller counts columns as if nothing had been pruned; the cache holds fewer.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from groundprune.errors import GroundPruneError, Unservable
from groundprune.families.linear import linear_layers
from groundprune.probes.tower import recordable
from groundprune.pruning.encoding import Encoded, encode_inputs, has_visual
from groundprune.pruning.plan import Plan
from groundprune.pruning.prefill import Prefill, PrunedInputs, checked_ids, shortened
from groundprune.pruning.prompt import PrunedPrompt, Segment
from groundprune.pruning.since import Since
from groundprune.tokens.compaction import Compaction
from groundprune.tokens.growth import grown_mask

_BY_COLUMN = ("token_type_ids", "mm_token_type_ids", "labels")


def next_turn(plan: Plan, inputs: dict[str, Any], earlier: PrunedPrompt, cache: Any) -> PrunedInputs:
    """What is new in `inputs`, pruned, to be run on `cache`; see `prune_inputs`.

    earlier: what became of the turns before, which filled the cache; more columns in it were said since.
    """
    ids, mask = checked_ids(inputs)
    earlier = as_held(earlier, cache, len(ids))
    before = earlier.compaction
    tail = int(cache.get_seq_length()) - before.slots
    known = before.length + tail
    if mask is not None and before.dropped and mask.shape[1] == before.slots + tail + ids.shape[1]:
        # The mask of a caller who knows what the cache holds.
        mask = torch.cat([mask.new_ones(len(mask), before.length), mask[:, before.slots :]], dim=1)
    new, mask = _new_columns(ids, mask, known, earlier.ids)
    valid = torch.ones(len(ids), new, dtype=torch.bool, device=ids.device) if mask is None else mask[:, known:].bool()
    held = grown_mask(before, mask, tail)
    first = earlier.next_position.to(ids.device) + held[:, before.slots :].sum(1)

    rest = {name: value for name, value in inputs.items() if name not in ("attention_mask", "past_key_values")}
    rest = encode_inputs(plan.model.base_model, plan.family, rest, recordable(plan.pruner.needs))
    every = ids.shape[1] > new and _holds_all_images(plan, rest, ids, new)
    position, valid = _positions(plan, inputs, ids, mask, first, valid).cpu(), valid.cpu()
    encoded = Encoded(
        plan.family,
        plan.model.config,
        rest.get("mm_encoder_outputs") or {},
        ids if every else ids[:, -new:],
        torch.nn.functional.pad(position, (ids.shape[1] - new, 0)) if every else position,
    )
    if every:
        encoded = Since(encoded, ids.shape[1] - new)
        rest["mm_encoder_outputs"] = encoded.outputs
    for name in ("input_ids", *_BY_COLUMN):
        if rest.get(name) is not None:
            rest[name] = rest[name][:, -new:]
    rest.pop("position_ids", None)
    short = shortened(plan, Prefill(rest, encoded, position, valid))
    if short.prompt.pruned and not short.prompt.compaction.full and linear_layers(plan.model.config):
        raise Unservable(
            "the rows of this turn keep different numbers of tokens, and linear attention would read the padding "
            "between turns: run each row on a cache of its own"
        )
    return _on_cache(short, earlier, held, cache, ids)


def as_held(earlier: PrunedPrompt, cache: Any, rows: int) -> PrunedPrompt:
    """`earlier` as the cache holds it.

    Raises Unservable where the cache was cut inside of the pruned columns, or holds another number of rows: which of
    its columns are which can then no longer be told.
    """
    past, slots = int(cache.get_seq_length()), earlier.compaction.slots
    if past < slots and not (past and _ends_in_words(earlier, slots - past)):
        raise Unservable(
            f"this cache was cropped to {past} columns, inside of its pruned prompt of {slots}: start from an empty "
            "cache"
        )
    if rows != (filled := len(earlier.compaction.mask)):
        raise Unservable(f"this cache was filled by {filled} pruned rows, and is used with {rows}")
    if past >= slots:
        return earlier
    segments = [segment.without_last(slots - past) for segment in earlier.segments]
    ids = None if earlier.ids is None else earlier.ids[:, : segments[0].compaction.length]
    return replace(earlier, segments=segments, next_position=earlier.next_position - (slots - past), ids=ids)


def _ends_in_words(prompt: PrunedPrompt, count: int) -> bool:
    """Whether the last `count` slots of every row are text."""
    first = prompt.compaction.index[:, -count].tolist()
    return count < prompt.compaction.slots and all(
        not len(row.layout) or column > prompt.offset + int(row.layout.column[-1])
        for row, column in zip(prompt.rows, first, strict=True)
    )


def unpruned_prompt(plan: Plan, inputs: dict[str, Any], past: int) -> PrunedPrompt:
    """Of a cache of `past` columns that words filled, or a call outside of any context.

    inputs: of the turn that goes on from it. Raises Unservable where it is not known which id comes next.
    """
    ids, mask = inputs["input_ids"], inputs.get("attention_mask")
    held = torch.ones_like(ids[:, :1]).expand(-1, past) if mask is None else mask[:, :past]
    index = torch.arange(past, device=ids.device).expand(len(ids), -1)
    segment = Segment(0, Compaction(index, held.bool(), past), index[None], torch.zeros_like(ids[:, 0]), [])
    return PrunedPrompt([], [segment], _id_after(plan, inputs, held.bool()), None)


def _id_after(plan: Plan, inputs: dict[str, Any], held: Tensor) -> Tensor:
    """Long[B]: the id that follows the first columns of a conversation. held: Bool[B, past], the mask over them."""
    ids, mask, past = inputs["input_ids"], inputs.get("attention_mask"), held.shape[1]
    if plan.family.position_axes == 1 or inputs.get("position_ids") is not None:
        return held.sum(1)
    if ids.shape[1] > past and (mask is None or mask.shape == ids.shape):
        if not _visual(plan, ids[:, :past]):
            return held.sum(1)
        if plan.family.grid_columns(plan.model.config, inputs) == _visual(plan, ids):
            found = plan.family.positions(plan.model.base_model, inputs)[..., :past]
            return found.amax(0).masked_fill(~held, -1).amax(1) + 1
    raise Unservable(
        "what this cache holds is not known, and behind an image this model's ids are not columns: give the ids and "
        "the grids of all turns, or run each turn with an image inside of gp.prune"
    )


def _new_columns(ids: Tensor, mask: Tensor | None, known: int, said: Tensor | None) -> tuple[int, Tensor | None]:
    """How many of the columns are new, and the mask over all: [B, known + new].

    known: unpruned columns before. said: Long[B, L], those of them that are known by their ids, from the first on.
    """
    columns = ids.shape[1]
    if mask is not None and mask.shape[1] == known + columns:
        return columns, mask
    goes_on = columns > known and (said is None or ids[:, : said.shape[1]].equal(said.to(ids.device)))
    if goes_on and (mask is None or mask.shape == ids.shape):
        return columns - known, mask
    if mask is None:
        return columns, None
    raise GroundPruneError(
        f"input_ids of a later turn hold the conversation so far, {known} unpruned columns, and what is new; or what "
        f"is new alone, with an attention_mask over both. Got {columns} columns and a mask of {tuple(mask.shape)}"
    )


def _holds_all_images(plan: Plan, inputs: dict[str, Any], ids: Tensor, new: int) -> bool:
    """Whether the images are those of all columns, where those of the `new` last would do."""
    outputs = [x for x in (inputs.get("mm_encoder_outputs") or {}).values() if x is not None]
    found = sum(features.shape[:-1].numel() for output in outputs for features in output.pooler_output)
    return found == _visual(plan, ids) > _visual(plan, ids[:, -new:])


def _visual(plan: Plan, ids: Tensor) -> int:
    """How many placeholders there are."""
    tokens = torch.tensor(list(plan.family.token_ids(plan.model.config).values()), device=ids.device)
    return int(torch.isin(ids, tokens).sum())


def _positions(
    plan: Plan, inputs: dict[str, Any], ids: Tensor, mask: Tensor | None, first: Tensor, valid: Tensor
) -> Tensor:
    """Long[A, B, new]: the unpruned ids of the new columns, of which `first` are the first.

    ids: of the new columns, or of all; mask: over all, or None. valid: Bool[B, new].
    """
    family, base, new = plan.family, plan.model.base_model, valid.shape[1]
    if (given := inputs.get("position_ids")) is not None:
        return family.positions(base, {"input_ids": ids[:, -new:], "position_ids": given[..., -new:]})
    if family.position_axes == 1 or not has_visual(inputs):
        return (first[:, None] + valid.cumsum(1) - 1).clamp(min=0).expand(family.position_axes, -1, -1)
    # Grids may be those of all images where the pixels are of the new ones alone.
    whole = family.grid_columns(plan.model.config, inputs) == _visual(plan, ids) > _visual(plan, ids[:, -new:])
    if not whole:
        ids, mask = ids[:, -new:], valid
    named = {name: value[:, -ids.shape[1] :] for name in _BY_COLUMN if (value := inputs.get(name)) is not None}
    found = family.positions(base, {**inputs, **named, "input_ids": ids, "attention_mask": mask})[..., -new:]
    return found + first[:, None] - (found[0, :, :1] if whole else 0)


def _on_cache(short: PrunedInputs, earlier: PrunedPrompt, held: Tensor, cache: Any, ids: Tensor) -> PrunedInputs:
    """A turn's own inputs, to be run behind what the cache holds. held: Bool[B, S], the mask over that."""
    turn = short.prompt
    position = turn.segments[0].position + earlier.shift[:, None].to(held.device)
    new = dict(short)
    new["past_key_values"] = cache
    new["attention_mask"] = torch.cat([held, turn.compaction.mask], dim=1).long()
    new["position_ids"] = position if len(position) > 1 else position[0]
    new.pop("mm_token_type_ids", None)  # positions are given
    if new.pop("token_type_ids", None) is not None and any(len(row.layout) for row in turn.rows):
        # Masks that see images in both directions are looked up by column from the first on; what is before is past.
        new["token_type_ids"] = torch.nn.functional.pad(short["token_type_ids"], (held.shape[1], 0))
    # Behind layers that hold different numbers of tokens only words can follow, which all of them keep.
    prompt = earlier if len(earlier.segments) > 1 else _behind(turn, earlier, held, ids)
    return PrunedInputs(new, prompt, short.positions, ids)


def _behind(turn: PrunedPrompt, earlier: PrunedPrompt, held: Tensor, ids: Tensor) -> PrunedPrompt:
    """A turn's prompt on the cache of `earlier` ones.

    held: Bool[B, S], the mask over that cache. ids: Long[B, L], of all columns or of the new ones alone.
    """
    before, first = earlier.compaction, turn.segments[0]
    offset = before.length + held.shape[1] - before.slots
    later = torch.arange(before.length, offset, device=held.device).expand(len(held), -1)
    now = first.compaction
    index = torch.cat([before.index, later, now.index + offset], dim=1)
    place = torch.cat([before.place, later, now.place + offset], dim=1)
    mask = torch.cat([held, now.mask], dim=1)
    compaction = Compaction(index, mask, offset + now.length, None if place.equal(index) else place)
    joined = replace(first, compaction=compaction, shift=first.shift + earlier.shift)
    known = ids if ids.shape[1] == compaction.length else earlier.ids
    return replace(turn, segments=[joined], ids=known, earlier=earlier, offset=offset)
