"""Hooks on the layers of a stock decoder, which gets shorter on the way through it.

On prefill the layer of a stage is handed the states of the tokens that are left; it and all later layers get masks
and rotary embeddings of their own length. On decoding each such layer gets a mask over [what it kept, later tokens].
The same hooks make sliding windows exact (see `tokens.masks`), also where pruning happens before the LLM alone.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from groundprune.errors import GroundPruneError, Unservable
from groundprune.probes.decoder import record_layers
from groundprune.probes.patching import replaced
from groundprune.pruning.layer_inputs import LayerInputs
from groundprune.pruning.left import deepstack, labels_left
from groundprune.pruning.passage import Passage
from groundprune.pruning.plan import Plan
from groundprune.pruning.prefill import Prefill
from groundprune.pruning.prompt import PrunedPrompt

# Whether the backward pass runs a layer's hooks again (before transformers 5.23): by then the prefill is over.
_RECOMPUTES = "__call__" in vars(GradientCheckpointingLayer)
_FLASH_WINDOW = "flash attention counts retained tokens in its sliding window: pass window='tokens', or use sdpa"


class Layers:
    """Layer hooks of one `gp.prune` context; none where the plan has no stages and no window is to be exact.

    exact_windows: sliding windows count unpruned columns, else the tokens that are left in each layer. Raises
    GroundPruneError for a stage beyond the decoder.
    """

    def __init__(self, plan: Plan, exact_windows: bool):
        self._plan = plan
        self._decoder = plan.model.get_decoder()
        config = plan.model.config.get_text_config()
        count = config.num_hidden_layers
        self._layers: list[nn.Module] = list(self._decoder.layers)[:count]
        at = [stage.layer for stage in plan.inside]
        if any(layer is None or not 0 < layer < count for layer in at) or len(set(at)) != len(at):
            raise GroundPruneError(
                f"{plan.pruner.label} prunes at decoder layers {at}; this model allows 1 to {count - 1}, each once"
            )
        self._inputs = LayerInputs(self._decoder, config, plan.family.windows(plan.model.config), exact_windows)
        self._read = sorted(plan.pruner.llm_layers(plan.inside))
        self._passage: Passage | None = None
        self._reading = contextlib.ExitStack()
        self._step: list[tuple[Tensor | None, Any] | None] | None = None  # per layer: mask, rotary embedding
        self.staged = bool(plan.inside)
        self.hooked = bool(plan.inside) or (exact_windows and any(self._inputs.windows))

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """While active, the layers can be told to prune."""
        if not self.hooked:
            yield
            return
        if self._plan.inside and self._inputs.implementation == "flex_attention":
            raise Unservable("pruning inside of the LLM serves sdpa, eager and flash attention, not flex_attention")
        with contextlib.ExitStack() as stack:
            for index, layer in enumerate(self._layers):
                hook = functools.partial(self._before_layer, index)
                stack.callback(layer.register_forward_pre_hook(hook, with_kwargs=True).remove)
            if self._plan.inside:
                model, decoder = self._plan.model, self._decoder
                stack.enter_context(replaced(model, "_loss_function", self._loss(model.loss_function)))
                if hasattr(decoder, "_deepstack_process"):
                    process = deepstack(decoder._deepstack_process, lambda: self._passage)
                    stack.enter_context(replaced(decoder, "_deepstack_process", process))
            stack.callback(self._clear)
            yield

    def begin(self, prompt: PrunedPrompt, prefill: Prefill, columns: int, offset: int = 0) -> None:
        """A prefill starts; `finish` ends it.

        prompt: with each row of the prefill repeated for beams. columns: that enter the LLM: `generate` puts drafted
        tokens behind the prompt, or without a cache those that were said. offset: what it adds to all ids.
        """
        self._clear()
        if not self.hooked:
            return
        beyond = self._inputs.beyond_windows(prompt.compaction.length)
        if beyond and "flash" in self._inputs.implementation:
            raise Unservable(_FLASH_WINDOW)
        hooked = bool(self._plan.inside) or beyond
        if hooked and _RECOMPUTES and self._decoder.is_gradient_checkpointing and self._plan.model.training:
            raise Unservable(
                "gradient checkpointing recomputes layers without what was pruned: use a newer transformers, or "
                "model.gradient_checkpointing_disable()"
            )
        self._passage = Passage(self._plan, self._inputs, prompt, prefill, columns, offset)
        if self._read and self._plan.inside:
            layers = {index: self._layers[index] for index in self._read}
            self._reading.enter_context(record_layers(self._passage.records, layers))

    def finish(self, ran: bool = True) -> PrunedPrompt | None:
        """Nothing is under way any more; what became of the prompt, if a prefill was.

        ran: False after an exception. Raises Unservable where a prefill went past the hooks on the layers of its
        stages.
        """
        passage = self._passage
        self._clear()
        if passage is None:
            return None
        if ran and passage.missed:
            raise Unservable(
                "the LLM's layers ran without pruning, as layers that were compiled or replaced do: "
                "give gp.prune the stock model"
            )
        return passage.result

    def check_later_image(self, length: int, several: bool) -> None:
        """Raises Unservable where an image cannot follow on a kept cache.

        length: unpruned columns with it. several: layers of the cache hold different numbers of tokens.
        """
        if self._plan.inside or several:
            raise Unservable(
                "an image in a later turn of a kept cache cannot be pruned between layers: start from an empty cache"
            )
        if self._inputs.beyond_windows(length):
            raise Unservable("an image in a later turn beyond the sliding window: pass window='tokens'")

    def step(self, prompt: PrunedPrompt, mask: Tensor | None, new: int, cache: Any, position: Tensor | None) -> None:
        """Prepare the layers for `new` tokens on a cache that holds the prompt and what came after it.

        mask: [B, slots] over what entered the LLM and all later tokens, or None; position: the new tokens' ids,
        [B, new] or [A, B, new], or None = they go on from the prompt's.
        """
        self._clear()
        if not self.hooked:
            return
        first, segments, past = prompt.segments[0], prompt.segments, int(cache.get_seq_length())
        held, tail = first.compaction.mask, past + new - first.compaction.slots
        later = held.new_ones(len(held), tail) if mask is None else mask[:, held.shape[1] :][:, :tail].bool()
        length = first.compaction.length + tail
        beyond = self._inputs.beyond_windows(length)
        if len(segments) == 1 and not beyond:
            return
        if beyond and "flash" in self._inputs.implementation:
            raise Unservable(_FLASH_WINDOW)
        if position is None:
            start = prompt.next_position + first.shift + tail - new
            position = start[:, None] + torch.arange(new, device=start.device)
        ids = position[-3:] if position.ndim == 3 else position
        self._step = self._inputs.steps(len(self._layers), segments, later, new, cache, ids)

    def _clear(self) -> None:
        self._passage, self._step = None, None
        self._reading.close()

    def _before_layer(self, index: int, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._passage is not None:
            states = args[0] if args else kwargs.pop("hidden_states")
            states, kwargs = self._passage.enter(index, layer, states, kwargs)
            return (states, *args[1:]), kwargs
        step = None if self._step is None else self._step[index]
        if step is None:
            return None
        mask, embedding = step
        kwargs = {**kwargs, "attention_mask": mask, "position_ids": None}
        if embedding is not None:
            kwargs["position_embeddings"] = embedding
        return args, kwargs

    def _loss(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def loss(logits: Tensor, labels: Tensor, *args: Any, **kwargs: Any) -> Any:
            labels = labels if self._passage is None else labels_left(self._passage, labels)
            return original(logits, labels, *args, **kwargs)

        return loss
