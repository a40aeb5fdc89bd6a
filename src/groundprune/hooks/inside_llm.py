"""Prune between decoder layers: hooks on the layers of a stock decoder, which gets shorter on the way.

On prefill the layer of a stage is handed the states of the tokens that are left; it and all later layers get masks
and rotary embeddings of their own length. On decoding each such layer gets a mask over [what it kept, later tokens].
The same hooks make sliding windows exact (see `hooks.masks`), also where pruning happens before the LLM alone.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from groundprune.budget import Budget
from groundprune.compaction import Compaction
from groundprune.errors import GroundPruneError, Unservable
from groundprune.hooks.encoded import Encoded
from groundprune.hooks.eviction import evict
from groundprune.hooks.layer_inputs import LayerInputs
from groundprune.hooks.llm_states import LayerRecord, RowStates, kept, look_ahead
from groundprune.hooks.masks import layer_windows
from groundprune.hooks.patching import replaced
from groundprune.hooks.segments import make_segment
from groundprune.hooks.state import PrunedPrompt
from groundprune.positions import Policy
from groundprune.pruners.base import Pruner, Selection, Stage
from groundprune.signals import Signals, TextEmbedder

# Whether the backward pass runs a layer's hooks again (before transformers 5.23): by then the prefill is over.
_RECOMPUTES = "__call__" in vars(GradientCheckpointingLayer)
_FLASH_WINDOW = "flash attention counts retained tokens in its sliding window: pass window='tokens', or use sdpa"


@dataclass(eq=False)
class _Prefill:
    """A prefill on its way through the layers. position: Long[A, B, L], valid: Bool[B, L], of the unpruned prompt."""

    prompt: PrunedPrompt
    encoded: Encoded
    position: Tensor
    valid: Tensor
    drafts: int
    entered: Compaction  # what stock code's masks are made for
    records: dict[int, LayerRecord] = field(default_factory=dict)
    masks: dict[Any, Tensor | None] = field(default_factory=dict)
    embeddings: dict[Any, Any] = field(default_factory=dict)
    reached: set[int] = field(default_factory=set)  # layers of stages


class InsideLLM:
    """Layer hooks of one `gp.prune` context. stages: ascending, each with a layer; may be empty.

    exact_windows: sliding windows count unpruned columns, else the tokens that are left in each layer. Raises
    GroundPruneError for a stage beyond the decoder.
    """

    def __init__(
        self,
        model: Any,
        pruner: Pruner,
        stages: Sequence[Stage],
        policy: Policy,
        exact_windows: bool,
        prompts: Sequence[str] | None = None,
        embedder: TextEmbedder | None = None,
    ):
        self.model, self.pruner, self.policy = model, pruner, policy
        self.prompts, self.embedder = prompts, embedder
        self.decoder = model.get_decoder()
        config = model.config.get_text_config()
        count = config.num_hidden_layers
        self.layers: list[nn.Module] = list(self.decoder.layers)[:count]
        self.stages = {stage.layer: stage for stage in stages if stage.layer is not None}
        if any(not 0 < layer < count for layer in self.stages) or len(self.stages) != len(stages):
            raise GroundPruneError(
                f"{pruner.label} prunes at decoder layers {[s.layer for s in stages]}; "
                f"this model allows 1 to {count - 1}, each once"
            )
        self.exact_windows = exact_windows
        self.windows = layer_windows(config)
        self.inputs = LayerInputs(self.decoder, config, exact_windows)
        self._kept_layers = sorted(pruner.llm_layers(stages))
        self._running: _Prefill | None = None
        self._closing = contextlib.ExitStack()
        self._step: list[tuple[Tensor | None, Any] | None] | None = None  # per layer: mask, rotary embedding

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """While active, the layers can be told to prune; a model that needs none of it gets no hook."""
        if not self.stages and not (self.exact_windows and any(self.windows)):
            yield
            return
        if self.stages and self.inputs.implementation == "flex_attention":
            raise Unservable("pruning inside of the LLM serves sdpa, eager and flash attention, not flex_attention")
        with contextlib.ExitStack() as stack:
            for index, layer in enumerate(self.layers):
                hook = functools.partial(self._before_layer, index)
                stack.callback(layer.register_forward_pre_hook(hook, with_kwargs=True).remove)
            if self.stages:
                stack.enter_context(replaced(self.model, "_loss_function", self._loss(self.model.loss_function)))
                if hasattr(self.decoder, "_deepstack_process"):
                    process = self._deepstack(self.decoder._deepstack_process)
                    stack.enter_context(replaced(self.decoder, "_deepstack_process", process))
            stack.callback(self.clear)
            yield

    def begin(self, prompt: PrunedPrompt, encoded: Encoded, position: Tensor, valid: Tensor, drafts: int) -> None:
        """A prefill starts; `clear` ends it. drafts: how many drafted tokens stand behind the prompt."""
        too_long = self._beyond(valid.shape[1])
        if too_long and "flash" in self.inputs.implementation:
            raise Unservable(_FLASH_WINDOW)
        hooked = bool(self.stages) or too_long
        if hooked and _RECOMPUTES and self.decoder.is_gradient_checkpointing and self.model.training:
            raise Unservable(
                "gradient checkpointing recomputes layers without what was pruned: use a newer transformers, or "
                "model.gradient_checkpointing_disable()"
            )
        self._running = _Prefill(prompt, encoded, position, valid, drafts, prompt.compaction)
        if self._kept_layers and self.stages:
            layers = {index: self.layers[index] for index in self._kept_layers}
            self._closing.enter_context(kept(self._running.records, layers))

    def check_later_image(self, length: int) -> None:
        """Raises Unservable where an image cannot follow on a kept cache. length: columns of the unpruned turns."""
        if self.stages:
            raise Unservable(
                "an image in a later turn of a kept cache cannot be pruned between layers: start from an empty cache"
            )
        if self._beyond(length):
            raise Unservable("an image in a later turn beyond the sliding window: pass window='tokens'")

    def check_ran(self) -> None:
        """Raises Unservable where a prefill went past the hooks on the layers of its stages."""
        run = self._running
        if run is not None and not self.stages.keys() <= run.reached:
            self.clear()
            raise Unservable(
                "the LLM's layers ran without pruning, as layers that were compiled or replaced do: "
                "give gp.prune the stock model"
            )

    def _beyond(self, length: int) -> bool:
        """Whether so many unpruned columns outgrow a window that counts them."""
        return self.exact_windows and any(window is not None and length > window for window in self.windows)

    def clear(self) -> None:
        """Nothing is under way any more, be it by an exception."""
        self._running, self._step = None, None
        self._closing.close()

    def step(
        self, state: PrunedPrompt, mask: Tensor | None, past: int, new: int, cache: Any, position: Tensor | None
    ) -> None:
        """Prepare the layers for `new` tokens on a cache of `past` slots.

        mask: [B, length + tail] over unpruned columns or None; position: their unpruned ids, [B, new] or
        [A, B, new], or None = they go on from the prompt's.
        """
        compaction = state.compaction
        tail = past + new - compaction.slots
        beyond = self._beyond(compaction.length + tail)
        if len(state.segments) == 1 and not beyond:
            return
        if beyond and "flash" in self.inputs.implementation:
            raise Unservable(_FLASH_WINDOW)
        memo: dict[Any, Any] = {}
        self._step = []
        segment = 0
        for index in range(len(self.layers)):
            while segment + 1 < len(state.segments) and state.segments[segment + 1].layer <= index:
                segment += 1
            mine, window = state.segments[segment], self.windows[index]
            length = compaction.length if self.exact_windows else mine.compaction.slots
            if window is not None and length + tail <= window:
                window = None
            if segment == 0 and (window is None or not self.exact_windows):  # stock code counts slots by itself
                self._step.append(None)
                continue
            columns, offset = (int(x) for x in cache.get_mask_sizes(new, index))
            key = (segment, columns, offset, window)
            if key not in memo:
                memo[key] = self.inputs.decode(mine.compaction, mask, tail, new, columns, offset, window)
            kind = self.inputs.kind(index)
            shifted = segment and not mine.shift.equal(state.shift)
            if shifted and (segment, kind) not in memo:
                if position is None:
                    start = state.next_position + tail - new
                    position = start[:, None] + torch.arange(new, device=start.device)
                ids = position[-3:] if position.ndim == 3 else position
                memo[segment, kind] = self.inputs.rotary(
                    ids + mine.shift[:, None], len(state.segments[0].position), kind
                )
            self._step.append((memo[key], memo[segment, kind] if shifted else None))

    def _before_layer(self, index: int, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._running is not None:
            states = args[0] if args else kwargs.pop("hidden_states")
            states, kwargs = self._on_prefill(self._running, index, layer, states, kwargs)
            return (states, *args[1:]), kwargs
        step = None if self._step is None else self._step[index]
        if step is None:
            return None
        mask, embedding = step
        kwargs = {**kwargs, "attention_mask": mask, "position_ids": None}
        if embedding is not None:
            kwargs["position_embeddings"] = embedding
        return args, kwargs

    def _on_prefill(
        self, run: _Prefill, index: int, layer: nn.Module, states: Tensor, kwargs: dict[str, Any]
    ) -> tuple[Tensor, dict[str, Any]]:
        segments = run.prompt.segments
        if index in self._kept_layers or index in self.stages:
            run.records[index] = LayerRecord(segments[-1].compaction, states)
        if index in self.stages:
            run.reached.add(index)
            states = self._prune(run, self.stages[index], layer, states, kwargs)
            run.records[index] = LayerRecord(segments[-1].compaction, states)  # what a later stage may read
        return states, self._fitted(run, index, kwargs)

    def _fitted(self, run: _Prefill, index: int, kwargs: dict[str, Any]) -> dict[str, Any]:
        """A layer's arguments, fitted to the slots that are left."""
        segment, whole = run.prompt.segments[-1], len(run.prompt.segments) == 1
        window = self.windows[index]
        if window is not None and (run.valid.shape[1] if self.exact_windows else run.entered.slots) <= window:
            window = None
        if whole and (window is None or not self.exact_windows):
            return kwargs
        stock = kwargs.get("attention_mask")
        columns = segment.compaction.slots
        cache = kwargs.get("past_key_values")
        if cache is not None:
            columns = max(columns, int(cache.get_mask_sizes(columns, index)[0]))
        key = (segment.layer, id(stock), columns, window)
        if key not in run.masks:
            run.masks[key] = self.inputs.prefill(segment.compaction, run.entered, stock, columns, window)
        new = {**kwargs, "attention_mask": run.masks[key], "position_ids": None}
        if not whole:
            kind = self.inputs.kind(index)
            if (segment.layer, kind) not in run.embeddings:
                run.embeddings[segment.layer, kind] = self.inputs.rotary(
                    segment.position, len(segment.position), kind
                )
            new["position_embeddings"] = run.embeddings[segment.layer, kind]
        return new

    def _prune(self, run: _Prefill, stage: Stage, layer: nn.Module, states: Tensor, kwargs: dict[str, Any]) -> Tensor:
        """The states of what a stage leaves; the prompt gets one more segment."""
        assert stage.layer is not None
        previous = run.prompt.segments[-1]
        chosen = self._select(run, stage, layer, states, kwargs)
        left = [before if s is None else before[s.kept] for s, before in zip(chosen, previous.kept, strict=True)]
        if all(s is None for s in chosen):
            return states
        layouts = [row.layout for row in run.prompt.rows]
        orders = [None if s is None else s.order for s in chosen]
        segment = make_segment(stage.layer, self.policy, run.position, run.valid, layouts, left, orders)
        take = segment.compaction.slots_in(previous.compaction)
        merged = [self._merged(s, b, run, states) for b, s in enumerate(chosen)]
        states = torch.gather(states, 1, take[..., None].expand(-1, -1, states.shape[-1]))
        for b, new in enumerate(merged):
            if new is not None:
                states[b, segment.compaction.slots_of(b, layouts[b].column[left[b]])] = new.to(states.dtype)
        segment = replace(segment, merged=any(new is not None for new in merged))
        if stage.evict_earlier:
            evict(run.prompt.segments, segment, kwargs.get("past_key_values"))
        run.prompt.segments.append(segment)
        return states

    def _select(
        self, run: _Prefill, stage: Stage, layer: nn.Module, states: Tensor, kwargs: dict[str, Any]
    ) -> list[Selection | None]:
        """Per row what the pruner chooses among the tokens that are left; None = all of them stay."""
        assert stage.layer is not None
        previous, features = run.prompt.segments[-1], run.encoded.features
        # Rotary embedding and mask as the previous segment has them: the stage's layer is looked at before it prunes.
        ahead = self._fitted(run, stage.layer, kwargs)
        record = run.records[stage.layer]
        chosen: list[Selection | None] = []
        for b, row in enumerate(run.prompt.rows):
            if b % run.encoded.copies:
                chosen.append(chosen[-1])  # beams of one prompt keep the same: `generate` mixes their caches
                continue
            layout, left = row.layout, previous.kept[b]
            patches = int(layout.is_patch[left].sum())
            whole = len(layout.patches)
            count = stage.budget.count(whole, layout.n_images)
            if count >= (whole if stage.adaptive else patches):
                chosen.append(None)
                continue
            # An adaptive stage decides how many of the survivors stay, however few they are.
            count = min(count, patches - 1) if stage.adaptive else count
            column = layout.column[left]
            last = run.valid[b, : layout.length - run.drafts].nonzero()[-1]
            complete = functools.partial(look_ahead, layer, record, ahead)
            seen = RowStates(b, column, last, run.records, self.decoder.norm, complete, self.inputs.frequencies)
            prompt = self.prompts[b // run.encoded.copies] if self.prompts is not None else None
            signals = Signals(layout, features[b], run.encoded.record, prompt, self.embedder, left, seen)
            share = replace(stage, budget=Budget(share=Fraction(count, patches)))
            with torch.no_grad():
                # Neither drafts nor padding on the right are of the prompt.
                now = replace(layout.subset(left), length=int(last) + 1)
                chosen.append(self.pruner(signals, now, share))
        return chosen

    def _merged(self, selection: Selection | None, row: int, run: _Prefill, states: Tensor) -> Tensor | None:
        if selection is None or selection.merge is None:
            return None
        previous = run.prompt.segments[-1]
        column = run.prompt.rows[row].layout.column[previous.kept[row]]
        return selection.merge.weight @ states[row, previous.compaction.slots_of(row, column)].float()

    def _loss(self, original: Any) -> Any:
        @functools.wraps(original)
        def loss(logits: Tensor, labels: Tensor, *args: Any, **kwargs: Any) -> Any:
            run = self._running
            # Not by the number of columns: a long row that loses nothing keeps it while others move.
            if run is not None and len(run.prompt.segments) > 1:
                last = run.prompt.segments[-1].compaction
                labels = torch.gather(labels, 1, last.slots_in(run.entered).to(labels.device))
                labels = labels.masked_fill(~last.mask.to(labels.device), -100)
            return original(logits, labels, *args, **kwargs)

        return loss

    def _deepstack(self, original: Any) -> Any:
        """Qwen3-VL adds features to visual states between its first layers, by a mask over what entered the LLM."""

        def process(states: Tensor, mask: Tensor, features: Tensor) -> Tensor:
            run = self._running
            if run is not None and len(run.prompt.segments) > 1:
                left = run.prompt.segments[-1].compaction
                take = left.slots_in(run.entered)
                index = (mask.flatten().cumsum(0) - 1).view_as(mask).gather(1, take)
                mask = torch.gather(mask, 1, take) & left.mask
                features = features[index[mask]]
            return original(states, mask, features)

        return process
