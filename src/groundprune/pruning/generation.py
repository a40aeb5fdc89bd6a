"""`generate` and `forward` of a model inside of a `gp.prune` context: callers go on as if nothing was pruned.

A call's inputs are pruned as `prune_inputs` does it, stock code runs on what is left, and the caller gets back
sequences with the unpruned prompt.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.generation import utils as generation_utils
from transformers.utils import ModelOutput

from groundprune.errors import GroundPruneError, Unservable
from groundprune.probes.patching import overlaid, replaced
from groundprune.probes.tower import MODALITIES
from groundprune.pruning.beams import repeated
from groundprune.pruning.between_calls import Prompts
from groundprune.pruning.encoding import has_visual
from groundprune.pruning.forwards import after_forward, before_forward, compiled_passed_over
from groundprune.pruning.layers import Layers
from groundprune.pruning.plan import Plan
from groundprune.pruning.prefill import Prefill, PrunedInputs, checked_ids, encoded_prefill, shortened
from groundprune.pruning.prompt import PrunedPrompt, columns_in
from groundprune.pruning.turns import next_turn, unpruned_prompt
from groundprune.pruning.wrapped import refuse_sharded

# Whether `generate` cuts what was encoded along with a prompt: 5.23 does, 5.19 does not.
CUTS_IMAGES = hasattr(generation_utils, "_slice_mm_encoder_output")
_OWNER = "groundprune_owner"
_PREPARED = "groundprune_prepared"  # marks the inputs of a forward that `generate` calls


@dataclass(eq=False)
class _Generation:
    """A call of `generate` under way. entered: slots of the prompt when it entered the LLM, which masks count."""

    short: PrunedInputs
    prefill: Prefill | None
    entered: int

    def fitted_mask(self, mask: Tensor | None, past: int) -> Tensor | None:
        """[B, slots] of a step over a cache of `past` slots, where a stage has evicted some of those that entered."""
        compaction = self.short.prompt.compaction
        if compaction.slots >= self.entered or past < compaction.slots:
            return mask
        if mask is not None:
            return torch.cat([compaction.mask.to(mask.dtype), mask[:, self.entered :]], dim=1)
        later = compaction.mask.new_ones(len(compaction.mask), past + 1 - compaction.slots)
        return None if compaction.full else torch.cat([compaction.mask, later], dim=1).long()


class Calls:
    """The calls of one context.

    One thread at a time: what is under way, and what hooks see, is one call's.
    """

    def __init__(self, plan: Plan, layers: Layers):
        self.plan, self.layers, self.prompts = plan, layers, Prompts(plan)
        self._run: _Generation | None = None
        self._thread: int | None = None  # that generates
        self._lock = threading.RLock()
        self.signature = inspect.signature(plan.model.forward)

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """While active, the model prunes. Raises GroundPruneError where another context prunes it already."""
        model, base = self.plan.model, self.plan.model.base_model
        if hasattr(model.generate, _OWNER):
            raise GroundPruneError("this model is inside of a gp.prune context already; leave that one first")
        with contextlib.ExitStack() as stack:
            # `generate` validates its arguments against the signatures of the other two.
            stack.enter_context(overlaid(model, "forward", self._forwarding))
            for name, make in (("generate", self._generating), ("prepare_inputs_for_generation", self._preparing)):
                original = getattr(model, name)
                stack.enter_context(replaced(model, name, functools.wraps(original)(make(original))))
            setattr(model.generate, _OWNER, self)
            stack.enter_context(replaced(model, "__deepcopy__", _refuse_copy))
            for modality in MODALITIES:
                name = f"get_{modality}_features"
                if hasattr(base, name):
                    encoder = getattr(base, name)
                    stack.enter_context(replaced(base, name, self.prompts.watched(encoder, modality)))
            stack.enter_context(self.layers.active())
            yield

    def _generating(self, original: Callable[..., Any]) -> Callable[..., Any]:
        names = list(inspect.signature(original).parameters)

        def generate(*args: Any, **kwargs: Any) -> Any:
            given = {**dict(zip(names, args, strict=False)), **kwargs}
            with self._lock:
                self.settle()
                outer = self._run, self._thread  # a call inside of a call, as of a model that drafts for itself
                output, prompt, self._run = None, None, None
                try:
                    with torch.no_grad():  # as `generate` does all else
                        short = self._prepared_for_generate(given)
                    self._thread = threading.get_ident()
                    output: Any = original(**(given if short is None else short))
                finally:
                    self._run, self._thread = outer
                    prompt = self.layers.finish(ran=output is not None)
                if short is None:
                    return output
                caches = [given.get("past_key_values"), getattr(output, "past_key_values", None)]
                self.prompts.remember(prompt or short.prompt, caches)
                if not isinstance(output, ModelOutput):
                    return short.restore(output)
                output["sequences"] = short.restore(output["sequences"])
                return output

        return generate

    def _prepared_for_generate(self, given: dict[str, Any]) -> PrunedInputs | None:
        """The pruned arguments of `generate`; None where there is nothing to prune."""
        if given.get("input_ids") is None and given.get("inputs") is not None:
            given["input_ids"] = given.pop("inputs")
        state = self.prompts.recall(given)
        if given.get("inputs_embeds") is not None:
            checked_ids(given)
        if not has_visual(given) and state is None:
            return None
        refuse_sharded(self.plan.model, "generate with pruning")
        chunk = self._setting("prefill_chunk_size", given)
        if chunk is not None and (self.layers.hooked or self.plan.family.bidirectional or not CUTS_IMAGES):
            raise Unservable(
                "this model, pruner or transformers needs prompts in one piece: leave prefill_chunk_size unset"
            )
        mask = given.get("attention_mask")
        if state is None and mask is not None and mask.ndim == 2 and not bool(mask[:, -1].all()):
            raise Unservable("generate with pruning needs left padding: set tokenizer.padding_side = 'left'")
        short, prefill = self.shorten(given, state)
        for name in ("max_length", "min_length"):  # which count the prompt
            length = self._setting(name, given)
            if length and not self._setting(name.replace("length", "new_tokens"), given):
                short[name] = length - given["input_ids"].shape[1] + short["input_ids"].shape[1]
        self._run = _Generation(short, prefill, short.prompt.compaction.slots)
        return short

    def _setting(self, name: str, given: dict[str, Any]) -> Any:
        """What `generate` would go by: the argument, else the config given, else the model's own."""
        configs = given.get("generation_config"), self.plan.model.generation_config
        values = [given.get(name), *(getattr(config, name, None) for config in configs)]
        return next((value for value in values if value is not None), None)

    def _preparing(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """What `generate` calls before every forward, outside of what it compiles."""

        def prepare(input_ids: Any, **kwargs: Any) -> dict[str, Any]:
            # A `generate` that was taken from the model, or began, before the context calls forwards like a loop of
            # one's own, whatever another thread does meanwhile.
            generates = self._thread == threading.get_ident()
            run, cache = self._run if generates else None, kwargs.get("past_key_values")
            past = columns_in(cache)
            if run is not None:
                self._follow(run, len(input_ids))
                if past:
                    kwargs["attention_mask"] = run.fitted_mask(kwargs.get("attention_mask"), past)
            prepared = original(input_ids, **kwargs)
            if generates:
                prepared[_PREPARED] = True
            if run is None:
                return prepared
            if past:
                new, ids = prepared["input_ids"].shape[1], prepared.get("position_ids")
                self.layers.step(run.short.prompt.held_by(past), kwargs["attention_mask"], new, cache, ids)
            elif run.prefill is not None:
                # Where ids start at 1 `generate` hands out those from 0 on, and the model's own code adds the 1.
                offset = self.plan.family.first_position
                self.layers.begin(run.short.prompt, run.prefill, input_ids.shape[1], offset)
            return prepared

        return prepare

    def settle(self) -> None:
        """What became of the prompt of a `generate` under way, before anything else runs through the layers.

        What it calls between forwards may call the model: guidance does, and so may any logits processor.
        """
        if self._run is not None:
            short = self._run.short
            short.prompt = self.layers.finish() or short.prompt

    def _follow(self, run: _Generation, rows: int) -> None:
        """What became of the prompt since the last forward, and of its rows, which `generate` repeats for beams."""
        self.settle()
        if rows > len(run.short.prompt.rows):
            run.short.prompt = repeated(run.short.prompt, rows // len(run.short.prompt.rows))

    def _forwarding(self, original: Callable[..., Any]) -> Callable[..., Any]:
        # A user's torch.compile takes what `original` runs, not the bookkeeping around it.
        uncompiled: Any = torch.compiler.disable  # its types know no method
        before = uncompiled(lambda args, kwargs: before_forward(self, args, kwargs))
        after = uncompiled(lambda short, output: after_forward(self, short, output))
        eager = uncompiled(lambda: compiled_passed_over(self))

        def pruning(*args: Any, **kwargs: Any) -> Any:
            with self._lock:
                short, output = before(args, kwargs), None
                try:
                    with eager():
                        output = original(**short)
                finally:
                    after(short, output)
                return output

        pruning = uncompiled(pruning, recursive=False)

        def forward(*args: Any, **kwargs: Any) -> Any:
            return original(*args, **kwargs) if kwargs.pop(_PREPARED, False) else pruning(*args, **kwargs)

        return forward

    def shorten(self, inputs: dict[str, Any], state: PrunedPrompt | None) -> tuple[PrunedInputs, Prefill | None]:
        """The inputs, pruned; of a first turn also what it was, for stages between layers."""
        cache, ids = inputs.get("past_key_values"), inputs.get("input_ids")
        past = columns_in(cache)
        self.prompts.read(inputs)
        if not past:
            prefill = encoded_prefill(self.plan, inputs)
            return shortened(self.plan, prefill), prefill
        if ids is None:
            raise Unservable("pruning reads input_ids to find the visual tokens; inputs_embeds do not tell them")
        if state is None:
            state = unpruned_prompt(self.plan, inputs, past)
        several = len(state.segments) > 1
        if several and not self.layers.hooked:
            raise Unservable(
                "layers of this cache hold different numbers of tokens, left by a pruner inside of the LLM: go on in "
                "a context of one"
            )
        short = next_turn(self.plan, inputs, state, cache)
        if has_visual(short):  # of the images of all turns none may be new
            self.layers.check_later_image(short.prompt.compaction.length, several)
        return short, None


def _refuse_copy(memo: dict[int, Any]) -> Any:
    """What was put on the model goes on calling the model: a copy would answer with weights that are not its own."""
    raise GroundPruneError("this model is inside of a gp.prune context: copy it before, or after leaving")
