"""What the calls of one `gp.prune` context know of each other.

What became of a prompt stays with the cache that it filled, for later calls.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from transformers import Cache

from groundprune.probes.tower import RECORD_ATTRIBUTE, encode, is_encoding, record_of, recordable
from groundprune.pruning.plan import Plan
from groundprune.pruning.prompt import PrunedPrompt
from groundprune.signals import TowerRecord

_STATE = "groundprune_prompt"  # of a cache: the PrunedPrompt that filled it


class Prompts:
    """The prompts of one context, and the images that were encoded for them.

    last: of the latest prefill with an image, None before the first. unread: of images that were encoded elsewhere
    and that no pruned call has read.
    """

    def __init__(self, plan: Plan):
        self._plan = plan
        self.last: PrunedPrompt | None = None
        self.unread: set[TowerRecord] = set()

    def recall(self, inputs: dict[str, Any]) -> PrunedPrompt | None:
        """What became of the prompt that filled the cache among the inputs; None where nothing was pruned."""
        cache = inputs.get("past_key_values")
        state: PrunedPrompt | None = getattr(cache, _STATE, None)
        if cache is not None and state is not None and int(cache.get_seq_length()) == 0:
            delattr(cache, _STATE)  # the cache was reset: what it knew belongs to another conversation
            return None
        return state

    def remember(self, prompt: PrunedPrompt, caches: Sequence[Any]) -> None:
        """Keep what became of a prompt with the cache that holds its keys and values; copies carry it too.

        caches: what may be one.
        """
        if any(len(row.layout) for row in prompt.rows):
            self.last = prompt
        # Of three axes stock code goes on by an offset that it finds as it makes the ids, which here were given.
        given = self._plan.policy.changes_whole_rows or self._plan.family.position_axes > 1
        if prompt.pruned or prompt.earlier is not None or given:
            for cache in caches:
                if isinstance(cache, Cache):
                    # The features would stay in memory as long as the cache.
                    rows = [replace(row, features=row.features[:0]) for row in prompt.rows]
                    setattr(cache, _STATE, replace(prompt, rows=rows))

    def watched(self, encoder: Callable[..., Any], modality: str) -> Callable[..., Any]:
        """Images that a caller encodes may be given to the model as `mm_encoder_outputs`, and are pruned then."""
        plan, signature = self._plan, inspect.signature(encoder)

        @functools.wraps(encoder)
        def get_features(*args: Any, **kwargs: Any) -> Any:
            if is_encoding() or kwargs.get("return_dict") is False:
                return encoder(*args, **kwargs)
            arguments = signature.bind_partial(*args, **kwargs).arguments
            given = {**arguments, **arguments.pop("kwargs", {})}
            output = encode(plan.model.base_model, plan.family, modality, given, recordable(plan.pruner.needs))
            self.unread.add(record_of(output))
            return output

        return get_features

    def read(self, inputs: dict[str, Any]) -> None:
        """Of the images among the inputs, that a pruned call reads them."""
        self.unread -= {getattr(x, RECORD_ATTRIBUTE, None) for x in (inputs.get("mm_encoder_outputs") or {}).values()}
