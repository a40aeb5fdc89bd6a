"""A forward of a model inside of a `gp.prune` context that no `generate` calls: a decode loop, training, a loss."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from groundprune.errors import Unservable
from groundprune.pruning.encoding import has_visual
from groundprune.pruning.prefill import PrunedInputs, checked_ids
from groundprune.pruning.prompt import columns_in
from groundprune.tokens.sending import sent

if TYPE_CHECKING:
    from groundprune.pruning.generation import Calls


def compiled_passed_over(calls: Calls) -> contextlib.AbstractContextManager[Any]:
    """What was compiled before knows no hook on a layer, and is passed over where the layers are to prune."""
    return torch.compiler.set_stance("force_eager") if calls.layers.staged else contextlib.nullcontext()


def before_forward(calls: Calls, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of the forward, pruned; as they are where there is nothing to prune."""
    calls.settle()
    inputs = {**calls.signature.bind_partial(*args).arguments, **kwargs}
    state = calls.prompts.recall(inputs)
    cache, ids = inputs.get("past_key_values"), inputs.get("input_ids")
    past = columns_in(cache)
    if not past:
        checked_ids(inputs)
    if not has_visual(inputs) and state is None:
        return inputs
    if inputs.get("fused_lm_head") and calls.layers.staged:
        raise Unservable(
            f"{calls.plan.pruner.label} prunes between the layers of the LLM, and TRL's fused_lm_head takes labels "
            "of all columns: use transformers' Trainer, or a pruner that acts before the LLM"
        )
    counts = not past and ids is not None and inputs.get("position_ids") is None
    if counts and calls.plan.family.position_axes == 1:
        # A plain forward counts columns, those of padding included, and goes on from the largest id.
        inputs["position_ids"] = calls.plan.family.positions(calls.plan.model.base_model, inputs)[0]
    short, prefill = calls.shorten(inputs, state)
    if counts and prefill is not None:
        next_position = sent(prefill.position.amax((0, 2)) + 1, short.prompt.next_position.device)
        short.prompt = replace(short.prompt, next_position=next_position)
    if prefill is not None:
        calls.layers.begin(short.prompt, prefill, short["input_ids"].shape[1])
    elif state is not None:
        new, ids = short["input_ids"].shape[1], short["position_ids"]
        calls.layers.step(short.prompt.held_by(past), short["attention_mask"], new, cache, ids)
    return short


def after_forward(calls: Calls, short: dict[str, Any], output: Any) -> None:
    """What became of the prompt stays with its cache. output: None after an exception."""
    prompt = calls.layers.finish(ran=output is not None)
    if isinstance(short, PrunedInputs) and output is not None:
        found = output if isinstance(output, tuple) else [getattr(output, "past_key_values", None)]
        calls.prompts.remember(prompt or short.prompt, found)
