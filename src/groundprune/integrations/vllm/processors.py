"""What vLLM's preprocessing makes of an image: as many placeholders as tokens stay, under a name of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

from vllm.multimodal.inputs import MultiModalFieldElem, MultiModalSharedField

from groundprune.errors import GroundPruneError
from groundprune.integrations.vllm.admission import SeenImage, TellingUpdate, check_reach, forget
from groundprune.integrations.vllm.image_pruning import ImagePruning
from groundprune.integrations.vllm.requests import Requests
from groundprune.integrations.vllm.settings import KEY
from groundprune.integrations.vllm.spans import shortened


class PrunedInfo:
    """Mixin before a ProcessingInfo of vLLM: the preprocessing that `gp.load` sets up for the family's boxes."""

    @cached_property
    def pruning(self) -> ImagePruning:
        info: Any = self
        return ImagePruning(info.get_hf_config())

    @cached_property
    def requests(self) -> Requests:
        return Requests(self.pruning)

    def get_hf_processor(self, **options: object) -> Any:
        own: Any = super()
        options.pop(KEY, None)
        return self.pruning.family.prepare_processor(own.get_hf_processor(**options))

    def get_mm_max_tokens_per_item(self, seq_len: int, mm_counts: Mapping[str, int]) -> Mapping[str, int] | None:
        own: Any = super()
        found = own.get_mm_max_tokens_per_item(seq_len, mm_counts)
        if found is None or "image" not in found:
            return found
        return {**found, "image": self.pruning.stage.budget.count(found["image"])}


class PrunedProcessor:
    """Mixin before a MultiModalProcessor of vLLM whose info is a PrunedInfo."""

    info: Any

    def apply(self, inputs: Any, timing_ctx: Any) -> Any:
        """As vLLM does. `hf_processor_mm_kwargs` is a request's own; below, it holds what our words there mean."""
        own: Any = super()
        given = dict(inputs.hf_processor_mm_kwargs)
        given[KEY] = self.info.requests.of(given.get(KEY))
        found = own.apply(replace(inputs, hf_processor_mm_kwargs=given), timing_ctx)
        images = found["mm_kwargs"].seen
        if images and not measuring():
            try:
                check_reach(len(found["prompt_token_ids"]), images, self.info.requests.limits.reach)
            except GroundPruneError:
                forget(inputs.cache, found)  # here, where no other request is rendered meanwhile
                raise
        return found

    def get_dummy_mm_inputs(self, *args: Any, **options: Any) -> Any:
        """While vLLM makes what it measures its memory with: it is given to no LLM, and may be what none can read."""
        own: Any = super()
        _state.measuring = True
        try:
            return own.get_dummy_mm_inputs(*args, **options)
        finally:
            _state.measuring = False

    def _apply_hf_processor_main(self, mm_items: Any, hf_kwargs: Mapping[str, Any]) -> Any:
        own: Any = super()
        return own._apply_hf_processor_main(mm_items, _without_ours(hf_kwargs))

    def _get_mm_prompt_updates(self, mm_items: Any, hf_processor_mm_kwargs: Any, out_mm_kwargs: Any) -> Any:
        """Each image's settings go along with it, and what it loses with its placeholders, through every cache."""
        own: Any = super()
        pruning: ImagePruning = hf_processor_mm_kwargs[KEY]
        images = []
        for item in out_mm_kwargs.get("image", ()):
            (unit,) = pruning.units(pruning.arguments_of(item))
            self.info.requests.check_image(pruning, unit)
            images.append(SeenImage.of(pruning, unit))
            words = self.info.requests.travelling(pruning, unit)
            if words is not None:  # on the CPU: vLLM keeps it where it drops an image's pixels
                item[KEY] = MultiModalFieldElem(words, MultiModalSharedField(batch_size=1, keep_on_cpu=True))
        updates = own._get_mm_prompt_updates(mm_items, hf_processor_mm_kwargs, out_mm_kwargs)
        if not images:
            return updates
        told = [
            [replace(update, content=TellingUpdate.of(update.content, image)) for update in each]
            for each, image in zip(updates["image"], images, strict=True)
        ]
        return {**updates, "image": told}

    def _maybe_apply_prompt_updates(self, mm_items: Any, mm_res: Any) -> Any:
        own: Any = super()
        mm_res.kwargs.seen = [update.content.image for update, *_ in mm_res.prompt_updates.get("image", ())]
        return own._maybe_apply_prompt_updates(mm_items, mm_res)

    def _get_prompt_updates(self, mm_items: Any, hf_processor_mm_kwargs: Any, out_mm_kwargs: Any) -> Sequence[Any]:
        own: Any = super()
        pruning = hf_processor_mm_kwargs[KEY]
        updates = own._get_prompt_updates(mm_items, _without_ours(hf_processor_mm_kwargs), out_mm_kwargs)
        return [
            self._pruned(update, out_mm_kwargs, pruning) if update.modality == "image" else update
            for update in updates
        ]

    def _pruned(self, update: Any, items: Any, pruning: ImagePruning) -> Any:
        whole: Callable[[int], Any] = update.replacement

        def replacement(index: int) -> Any:
            (unit,) = pruning.units(pruning.arguments_of(items["image"][index]))
            return shortened(whole(index), pruning.count(unit))

        return replace(update, replacement=replacement)

    def _get_mm_hashes(self, inputs: Any) -> dict[str, list[str]]:
        """An image's name in all caches says how it is pruned: none is handed to a model with other settings."""
        own: Any = super()
        given = inputs.hf_processor_mm_kwargs
        # Ours by what they mean, not by how they were said.
        hashes = own._get_mm_hashes(replace(inputs, hf_processor_mm_kwargs=_without_ours(given)))
        ours = given[KEY].settings.identity
        return {kind: [f"{h}-{ours}" for h in of] if kind == "image" else of for kind, of in hashes.items()}


_state = threading.local()  # a request may come while another thread warms up


def measuring() -> bool:
    """See `PrunedProcessor.get_dummy_mm_inputs`."""
    return getattr(_state, "measuring", False)


def _without_ours(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name != KEY}
