"""A prefill on its way through the layers: at each stage the pruner chooses among the tokens that are left."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn

from groundprune.probes.decoder import LayerRecord, RowStates
from groundprune.probes.look_ahead import look_ahead
from groundprune.pruners.base import Stage
from groundprune.pruners.settling import Settling
from groundprune.pruning.eviction import evict
from groundprune.pruning.layer_inputs import LayerInputs
from groundprune.pruning.plan import Plan
from groundprune.pruning.prefill import Prefill
from groundprune.pruning.prompt import PrunedPrompt, Segment
from groundprune.signals import Signals
from groundprune.tokens.budget import Budget
from groundprune.tokens.compaction import placed
from groundprune.tokens.growth import with_later
from groundprune.tokens.selection import Selection
from groundprune.tokens.sending import sent


class Passage:
    """See `Layers.begin`.

    records: what layers that a later stage reads were given, and made of it. prompt: what became of it so far, what
    came behind it included. entered: the columns that the LLM was given.
    """

    def __init__(
        self, plan: Plan, inputs: LayerInputs, prompt: PrunedPrompt, prefill: Prefill, columns: int, offset: int
    ):
        self._plan, self._inputs, self._encoded = plan, inputs, prefill.encoded
        self._copies = len(prompt.rows) // len(prefill.encoded.layouts)
        self._later = columns - prompt.compaction.slots
        self._stages = {stage.layer: stage for stage in plan.inside}
        self._read = plan.pruner.llm_layers(plan.inside)
        self._reached: set[int] = set()
        self.records: dict[int, LayerRecord] = {}
        self._masks: dict[Any, Tensor | None] = {}
        self._embeddings: dict[Any, Any] = {}
        self._norm: nn.Module = plan.model.get_decoder().norm

        position = prefill.position.repeat_interleave(self._copies, dim=1) + offset
        valid = prefill.valid.repeat_interleave(self._copies, dim=0)
        if self._later:
            more = valid.new_ones(len(valid), self._later)
            # As `generate` counts on: from the last column, which a video's times may run ahead of.
            last = (valid * torch.arange(valid.shape[1], device=valid.device)).amax(1)
            ids = position.gather(2, last[None, :, None].expand(len(position), -1, -1)) + more.cumsum(1)
            position, valid = torch.cat([position, ids], dim=2), torch.cat([valid, more], dim=1)
            first, shift = prompt.segments[0], prompt.shift[:, None]
            new = ids.to(shift.device) + shift
            entered = torch.cat([first.position, new], dim=2)
            first = replace(first, compaction=with_later(first.compaction, more.to(shift.device)), position=entered)
            prompt = replace(prompt, segments=[first])
        # `_position`: Long[A, B, L], `_valid`: Bool[B, L], of the unpruned columns; on the CPU.
        self.prompt = replace(prompt, segments=list(prompt.segments))
        self._position, self._valid, self.entered = position, valid, prompt.compaction

    @property
    def missed(self) -> bool:
        """Whether a layer of a stage was not run, or ran without its hook."""
        return not self._stages.keys() <= self._reached

    @property
    def result(self) -> PrunedPrompt:
        """What became of the prompt, without what came behind it."""
        segments = [x.without_last(self._later) if self._later else x for x in self.prompt.segments]
        return replace(self.prompt, segments=segments)

    def enter(
        self, index: int, layer: nn.Module, states: Tensor, kwargs: dict[str, Any]
    ) -> tuple[Tensor, dict[str, Any]]:
        """The states that a layer gets, and its arguments, fitted to the slots that are left."""
        segments = self.prompt.segments
        if index in self._read or index in self._stages:
            self.records[index] = LayerRecord(segments[-1].compaction, states)
        if index in self._stages:
            self._reached.add(index)
            states = self._prune(self._stages[index], layer, states, kwargs)
            self.records[index] = LayerRecord(segments[-1].compaction, states)  # what a later stage may read
        return states, self._fitted(index, kwargs)

    def _fitted(self, index: int, kwargs: dict[str, Any]) -> dict[str, Any]:
        segment, whole = self.prompt.segments[-1], len(self.prompt.segments) == 1
        window = self._inputs.window(index, self._valid.shape[1], self.entered.slots)
        if whole and (window is None or not self._inputs.exact_windows):
            return kwargs
        stock = kwargs.get("attention_mask")
        columns = segment.compaction.slots
        cache = kwargs.get("past_key_values")
        if cache is not None:
            columns = max(columns, int(cache.get_mask_sizes(columns, index)[0]))
        key = (segment.layer, id(stock), columns, window)
        if key not in self._masks:
            self._masks[key] = self._inputs.prefill(segment.compaction, self.entered, stock, columns, window)
        new = {**kwargs, "attention_mask": self._masks[key], "position_ids": None}
        if not whole:
            kind = self._inputs.kind(index)
            if (segment.layer, kind) not in self._embeddings:
                self._embeddings[segment.layer, kind] = self._inputs.rotary(
                    segment.position, len(segment.position), kind
                )
            new["position_embeddings"] = self._embeddings[segment.layer, kind]
        return new

    def _prune(self, stage: Stage, layer: nn.Module, states: Tensor, kwargs: dict[str, Any]) -> Tensor:
        """The states of what a stage leaves; the prompt gets one more segment."""
        assert stage.layer is not None
        segments = self.prompt.segments
        previous = segments[-1]
        chosen = self._select(stage, layer, kwargs)
        if all(s is None for s in chosen):
            return states
        left = [before if s is None else before[s.kept] for s, before in zip(chosen, previous.kept, strict=True)]
        layouts = [row.layout for row in self.prompt.rows]
        orders = [None if s is None else s.order for s in chosen]
        segment = Segment(stage.layer, *placed(self._plan.policy, self._position, self._valid, layouts, left, orders))
        segment = segment.to(states.device)
        take = previous.compaction.slots_of(segment.compaction.index)
        merged = [self._merged(s, b, states) for b, s in enumerate(chosen)]
        states = torch.gather(states, 1, take[..., None].expand(-1, -1, states.shape[-1]))
        for b, new in enumerate(merged):
            if new is not None:
                column = sent(layouts[b].column[left[b]], states.device)
                states[b, segment.compaction.slots_of(column, b)] = new.to(states.dtype)
        segment = replace(segment, merged=any(new is not None for new in merged))
        if stage.evict_earlier:
            evict(segments, segment, kwargs.get("past_key_values"))
        segments.append(segment)
        return states

    def _select(self, stage: Stage, layer: nn.Module, kwargs: dict[str, Any]) -> list[Selection | None]:
        """Per row what the pruner chooses among the tokens that are left; None = all of them stay."""
        assert stage.layer is not None
        previous = self.prompt.segments[-1]
        # Rotary embedding and mask as the previous segment has them: the stage's layer is looked at before it prunes.
        complete = functools.partial(look_ahead, layer, self.records[stage.layer], self._fitted(stage.layer, kwargs))
        found: dict[int, Selection] = {}
        with torch.no_grad(), Settling() as settling:
            for b in range(0, len(self.prompt.rows), self._copies):
                selection = self._chosen(stage, b, previous.kept[b], complete)
                if selection is not None:
                    found[b] = selection
        found = dict(zip(found, settling.read(list(found.values())), strict=True))
        # Beams of one prompt keep the same: `generate` mixes their caches.
        return [found.get(b - b % self._copies) for b in range(len(self.prompt.rows))]

    def _chosen(self, stage: Stage, b: int, left: Tensor, complete: Callable[[], None]) -> Selection | None:
        """What the pruner chooses of the `left` tokens of a row; complete: see `RowStates`."""
        layout = self.prompt.rows[b].layout
        patches, whole = int(layout.is_patch[left].sum()), len(layout.patches)
        count = stage.budget.count(whole, layout.n_images)
        if count >= (whole if stage.adaptive else patches):
            return None
        # An adaptive stage decides how many of the survivors stay, however few they are.
        count = min(count, patches - 1) if stage.adaptive else count
        last = self._valid[b, : layout.length].nonzero()[-1]
        features = self._encoded.features[b // self._copies].detach()
        now = replace(layout.subset(left), length=int(last) + 1)  # padding on the right is not of the prompt
        device = features.device
        now, every, left, last = now.to(device), layout.to(device), sent(left, device), sent(last, device)
        seen = RowStates(b, now.column, last, self.records, self._norm, complete, self._inputs.frequencies)
        prompt = None if self._plan.text is None else self._plan.text[b // self._copies]
        signals = Signals(every, features, self._encoded.record, prompt, self._plan.embedder, left, seen)
        return self._plan.pruner(signals, now, replace(stage, budget=Budget(share=Fraction(count, patches))))

    def _merged(self, selection: Selection | None, row: int, states: Tensor) -> Tensor | None:
        if selection is None or selection.merge is None:
            return None
        previous = self.prompt.segments[-1]
        column = sent(self.prompt.rows[row].layout.column[previous.kept[row]], states.device)
        return selection.merge.weight @ states[row, previous.compaction.slots_of(column, row)].float()
