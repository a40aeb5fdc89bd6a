"""A task's `generation_kwargs`: what of them `generate` takes, and where an answer ends."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from groundprune.errors import GroundPruneError

MAX_NEW_TOKENS = 1024  # where a task sets none, as lmms-eval's own LLaVA does
_OF_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "typical_p")


@dataclass(frozen=True)
class Decoding:
    """options: of `generate`. until: the answer ends before the first of these. ignored: names of no such option."""

    options: dict[str, Any]
    until: tuple[str, ...]
    ignored: tuple[str, ...]

    @staticmethod
    def of(given: Mapping[str, Any] | None) -> Decoding:
        """As lmms-eval's own models read them: a temperature of 0 is greedy, one above it samples unless told not to.

        Raises GroundPruneError for an `until` that is no text, and for several answers to one request.
        """
        given = {name: value for name, value in (given or {}).items() if value is not None}
        until = given.pop("until", [])
        until = [until] if isinstance(until, str) else until
        if not isinstance(until, list | tuple) or not all(isinstance(end, str) for end in until):
            raise GroundPruneError(f"until must be text, or a list of it (got {until!r})")
        known = vars(GenerationConfig())
        options = {name: value for name, value in given.items() if name in known}
        temperature = options.get("temperature")
        asked = options.get("do_sample", temperature is not None and temperature > 0)
        sampled = bool(asked) and temperature != 0
        if not sampled:
            options = {name: value for name, value in options.items() if name not in _OF_SAMPLING}
        if options.get("num_return_sequences", 1) != 1:
            raise GroundPruneError("num_return_sequences must be 1: lmms-eval asks again with --repeats")
        options = {"max_new_tokens": MAX_NEW_TOKENS, "num_beams": 1, **options, "do_sample": sampled}
        return Decoding(options, tuple(filter(None, until)), tuple(sorted(given.keys() - known.keys())))

    @property
    def key(self) -> str:
        """Equal where requests may run together."""
        return json.dumps([self.options, self.until], sort_keys=True, default=str)

    @property
    def sampled(self) -> bool:
        return self.options["do_sample"]

    def arguments(self, tokenizer: Any) -> dict[str, Any]:
        """For `generate`, which stops a row once its answer has ended."""
        if not self.until:
            return self.options
        return {**self.options, "stopping_criteria": StoppingCriteriaList([_Ended(tokenizer, self.until)])}

    def answer(self, said: str) -> str:
        """Of what the model said, what comes before the first end."""
        for end in self.until:
            said = said.partition(end)[0]
        return said.strip()


class _Ended(StoppingCriteria):
    """A row is done once its new tokens hold one of `until`."""

    def __init__(self, tokenizer: Any, until: Sequence[str]):
        self._tokenizer, self._until = tokenizer, until
        # A token stands for a byte at least; a few more for those that stand for nothing.
        self._reach = max(len(end.encode()) for end in until) + 4
        self._prompt: int | None = None

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Any:
        self._prompt = input_ids.shape[1] - 1 if self._prompt is None else self._prompt  # asked after each new token
        new = input_ids[:, max(self._prompt, input_ids.shape[1] - self._reach) :]
        said = self._tokenizer.batch_decode(new, skip_special_tokens=True)
        ended = [any(end in text for end in self._until) for text in said]
        return torch.tensor(ended, device=input_ids.device)
