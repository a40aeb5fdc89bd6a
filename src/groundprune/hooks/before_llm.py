"""Prune before the LLM by editing the inputs of a stock model's forward; its modelling code runs unchanged.

Two places are hooked. `forward` of the whole model: on prefill the dropped placeholders leave input_ids, masks,
labels and position ids, and the matching rows leave the encoded images, which stock code then scatters. And
`prepare_inputs_for_generation`: `generate` keeps book of the UNPRUNED prompt, so each decode step's mask and
position ids are mapped to the compact cache there, outside of any compiled region.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from groundprune.compaction import compact
from groundprune.errors import GroundPruneError, Unservable
from groundprune.hooks.encoded import Encoded, encode_inputs, has_visual
from groundprune.hooks.patching import replaced
from groundprune.hooks.state import PrunedPrompt, PrunedRow, pruned, recall, remember
from groundprune.positions import Policy, Row
from groundprune.pruners.base import Pruner, Selection, Stage
from groundprune.signals import Signals, TextEmbedder

if TYPE_CHECKING:
    from groundprune.families.base import Family

_OWNER = "groundprune_owner"
_PREPARED = "groundprune_prepared"  # marks the inputs of a decode step that `prepare` has mapped already


class BeforeLLM:
    """Hooks of one `gp.prune` context. `last` is the latest prefill's PrunedPrompt, None before the first."""

    def __init__(
        self,
        model: Any,
        family: Family,
        pruner: Pruner,
        stage: Stage,
        policy: Policy,
        prompts: Sequence[str] | None = None,
        embedder: TextEmbedder | None = None,
    ):
        self.model, self.family = model, family
        self.pruner, self.stage, self.policy = pruner, stage, policy
        self.prompts, self.embedder = prompts, embedder
        self.last: PrunedPrompt | None = None
        self._fresh: PrunedPrompt | None = None
        self._signature = inspect.signature(model.forward)

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """While active, the model prunes. Raises GroundPruneError where another context prunes it already."""
        original = self.model.prepare_inputs_for_generation
        if hasattr(original, _OWNER):
            raise GroundPruneError("this model is inside of a gp.prune context already; leave that one first")

        # wraps(): `generate` validates its arguments against this signature.
        @functools.wraps(original)
        def prepare(input_ids: Tensor, **kwargs: Any) -> dict[str, Any]:
            return self._prepare(original, input_ids, **kwargs)

        whole_generate = self.model.generate

        @functools.wraps(whole_generate)
        def generate(*args: Any, **kwargs: Any) -> Any:
            config = kwargs.get("generation_config") or self.model.generation_config
            if kwargs.get("prefill_chunk_size", getattr(config, "prefill_chunk_size", None)) is not None:
                raise Unservable("prefill_chunk_size cuts prompts into pieces before they are pruned: leave it unset")
            if pruned(kwargs.get("past_key_values")):
                # Stock M-RoPE code would look for new images from the compact cache's length on, and find old ones.
                kwargs.pop("mm_token_type_ids", None)
            return whole_generate(*args, **kwargs)

        setattr(prepare, _OWNER, self)
        handles = [
            self.model.register_forward_pre_hook(self._before_forward, with_kwargs=True),
            self.model.register_forward_hook(self._after_forward),
        ]
        try:
            with (
                replaced(self.model, "prepare_inputs_for_generation", prepare),
                replaced(self.model, "generate", generate),
            ):
                yield
        finally:
            for handle in handles:
                handle.remove()

    def _before_forward(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[()], dict]:
        self._fresh = None
        if kwargs.pop(_PREPARED, False):
            return (), kwargs
        inputs = {**self._signature.bind_partial(*args).arguments, **kwargs}
        cache = inputs.get("past_key_values")
        past = 0 if cache is None else int(cache.get_seq_length())
        new = inputs.get("inputs_embeds") if inputs.get("input_ids") is None else inputs["input_ids"]
        state = recall(cache, past, 0 if new is None else len(new))
        if past and has_visual(inputs):
            raise Unservable("an image in a later turn of a kept cache is not supported: start from an empty cache")
        if past:
            return (), inputs if state is None else self._decode(inputs, state, past)
        if inputs.get("input_ids") is None:
            raise Unservable("pruning reads input_ids to find the visual tokens; inputs_embeds do not tell them")
        return (), self._prefill(inputs) if has_visual(inputs) else inputs

    def _after_forward(self, module: Any, args: Any, output: Any) -> None:
        """A prefill's state goes with the cache that holds its keys and values."""
        if self._fresh is not None:
            remember(output, self._fresh)

    def _prefill(self, inputs: dict[str, Any]) -> dict[str, Any]:
        ids, mask = inputs["input_ids"], inputs.get("attention_mask")
        if mask is not None and (not isinstance(mask, Tensor) or mask.ndim != 2):
            raise Unservable("pruning needs the 2-D attention mask [batch, length] on prefill")
        if torch.is_tensor(inputs.get("logits_to_keep")):
            raise Unservable("logits_to_keep as a tensor of columns does not survive pruning; give a number")
        position = self.family.positions(self.model.base_model, inputs)  # first: it may need what encoding uses up
        if not inputs.get("mm_encoder_outputs"):
            inputs = encode_inputs(self.model.base_model, inputs)
        encoded = Encoded(self.family, self.model.config, inputs["mm_encoder_outputs"], ids, position)
        layouts = [encoded.layouts[b // encoded.copies] for b in range(len(ids))]
        chosen = self._select(encoded)

        keep = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()
        valid = keep.clone()
        if not all(bool(valid[b, layout.column].all()) for b, layout in enumerate(layouts)):
            raise Unservable("attention_mask hides image placeholders; pruning chooses among all tokens of an image")
        for b, (layout, (selection, _)) in enumerate(zip(layouts, chosen, strict=True)):
            keep[b, layout.column] = False
            keep[b, layout.column[selection.kept]] = True
        rows: list[PrunedRow] = []
        shifts: list[int] = []
        for b, (layout, (selection, kept)) in enumerate(zip(layouts, chosen, strict=True)):
            column = keep[b].nonzero().squeeze(1)
            row = Row(position[:, b], column, layout, selection.kept, selection.order)
            new, shift = self.policy(row)
            rows.append(PrunedRow(layout, selection, column, new, kept))
            shifts.append(shift)
        next_position = torch.stack([position[:, b, valid[b]].max() + 1 + shift for b, shift in enumerate(shifts)])
        self.last = PrunedPrompt(rows, compact(keep), torch.tensor(shifts, device=ids.device), next_position)
        if keep.equal(valid) and not self.policy.changes_whole_rows:
            # Nothing was dropped: the stock model, to the bit. It would make M-RoPE ids of what encoding used up.
            made = len(position) == 1 or inputs.get("position_ids") is not None
            return inputs if made else {**inputs, "position_ids": position}
        if self.policy.splits_flash_sequences and "flash" in (
            self.model.config.get_text_config()._attn_implementation or ""
        ):
            raise Unservable(f"flash attention reads the ids of {self.policy} as packed sequences; use sdpa")
        self._fresh = self.last
        return _compacted(inputs, self.last, encoded)

    def _select(self, encoded: Encoded) -> list[tuple[Selection, Tensor]]:
        """Per row the selection and the features of the kept slots."""
        layouts, copies, features = encoded.layouts, encoded.copies, encoded.features()
        if self.prompts is not None and len(self.prompts) != len(layouts):
            raise GroundPruneError(
                f"text= must hold one entry per prompt row: {len(layouts)} rows, {len(self.prompts)} given"
            )
        chosen: list[tuple[Selection, Tensor]] = []
        for i, layout in enumerate(layouts):
            prompt = self.prompts[i] if self.prompts is not None else None
            signals = Signals(layout, features[i * copies], encoded.record, prompt, self.embedder)
            with torch.no_grad():
                selection = self.pruner(signals, layout, self.stage)
            for b in range(i * copies, (i + 1) * copies):
                chosen.append((selection, self._kept_features(features[b], selection, signals)))
        return chosen

    def _kept_features(self, features: Tensor, selection: Selection, signals: Signals) -> Tensor:
        merge = selection.merge
        if merge is None:
            return features[selection.kept]
        if merge.space == "tower":
            mixed = merge.weight @ signals.tower_hidden()
            new = self.family.project(self.model.base_model, mixed.to(features.dtype))
        else:
            new = (merge.weight @ features.float()).to(features.dtype)
        # Newlines have no place in the tower: they stay what they are.
        is_patch = signals.layout.is_patch[selection.kept, None]
        return torch.where(is_patch, new, features[selection.kept])

    def _prepare(self, original: Callable[..., dict[str, Any]], input_ids: Tensor, **kwargs: Any) -> dict[str, Any]:
        """What `generate` calls before every forward."""
        cache, mask = kwargs.get("past_key_values"), kwargs.get("attention_mask")
        past = 0 if cache is None else int(cache.get_seq_length())
        state = recall(cache, past, len(input_ids)) if past else None
        if not past and mask is not None and has_visual(kwargs) and not bool(mask[:, -1].all()):
            raise Unservable("generate with pruning needs left padding: set tokenizer.padding_side = 'left'")
        if state is None:
            prepared = original(input_ids, **kwargs)
            if not past and cache is not None and cache.is_compileable:
                prepared["attention_mask"] = mask  # the 2-D mask: the pre-hook compacts it, stock code makes it 4-D
            return prepared
        compaction = state.compaction
        if kwargs.get("is_first_iteration") and kwargs.get("next_sequence_length") is not None:
            # A new turn on a kept cache: `generate` sliced the prompt by the compact cache's length.
            kwargs["next_sequence_length"] -= compaction.dropped
        new = kwargs.get("next_sequence_length") or input_ids.shape[1]
        if mask is not None or not bool(compaction.mask.all()):
            kwargs["attention_mask"] = compaction.grown_mask(mask, past + new - compaction.slots).long()
        prepared = original(input_ids, **kwargs)
        if prepared.get("position_ids") is not None:
            prepared["position_ids"] = prepared["position_ids"] + _per_row(state.shift, prepared["position_ids"])
        prepared[_PREPARED] = True
        return prepared

    def _decode(self, inputs: dict[str, Any], state: PrunedPrompt, past: int) -> dict[str, Any]:
        """A decode step of a loop of the user's own, without `generate`."""
        compaction, ids = state.compaction, inputs.get("input_ids")
        new = (inputs["inputs_embeds"] if ids is None else ids).shape[1]
        tail = past + new - compaction.slots
        mask = inputs.get("attention_mask")
        if mask is None or (mask.ndim == 2 and mask.shape[1] == compaction.length + tail):
            inputs["attention_mask"] = compaction.grown_mask(mask, tail).long()
        elif mask.ndim != 2 or mask.shape[1] != compaction.slots + tail:
            raise GroundPruneError(
                f"attention_mask of a decode step must have {compaction.length + tail} columns (unpruned) or "
                f"{compaction.slots + tail} (compact); got {tuple(mask.shape)}"
            )
        if inputs.get("position_ids") is None:
            start = state.next_position + past - compaction.slots
            inputs["position_ids"] = start[:, None] + torch.arange(new, device=start.device)
        else:
            inputs["position_ids"] = inputs["position_ids"] + _per_row(state.shift, inputs["position_ids"])
        return inputs


def _compacted(inputs: dict[str, Any], state: PrunedPrompt, encoded: Encoded) -> dict[str, Any]:
    """The inputs without the dropped columns. The caller's own objects are never changed."""
    compaction = state.compaction
    device = compaction.index.device
    position = torch.zeros(len(state.rows[0].position), *compaction.index.shape, dtype=torch.long, device=device)
    for b, row in enumerate(state.rows):
        position[:, b, compaction.mask[b]] = row.position
    new = dict(inputs)
    new["mm_encoder_outputs"] = encoded.pruned(state.rows)
    new["input_ids"] = compaction.gather(inputs["input_ids"])
    new["position_ids"] = position if len(position) > 1 else position[0]
    # Always explicit: with mask None, gaps in the ids would be read as packed sequences.
    new["attention_mask"] = compaction.mask.long()
    for name in ("token_type_ids", "mm_token_type_ids"):
        if new.get(name) is not None:
            new[name] = compaction.gather(new[name])
    if new.get("labels") is not None:
        new["labels"] = compaction.gather(new["labels"], fill=-100)
    return new


def _per_row(shift: Tensor, position: Tensor) -> Tensor:
    """[B] -> [B, 1], which also fits the [axes, B, new] of M-RoPE position ids."""
    return shift[:, None].to(position.device)
