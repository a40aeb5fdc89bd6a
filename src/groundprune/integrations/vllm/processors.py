"""What vLLM's preprocessing makes of an image: as many placeholders as tokens stay, under a name of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

from groundprune.integrations.vllm.image_pruning import ImagePruning


class PrunedInfo:
    """Mixin before a ProcessingInfo of vLLM: the preprocessing that `gp.load` sets up for the family's boxes."""

    @cached_property
    def pruning(self) -> ImagePruning:
        info: Any = self
        return ImagePruning(info.get_hf_config())

    def get_hf_processor(self, **options: object) -> Any:
        own: Any = super()
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

    def _get_prompt_updates(self, mm_items: Any, hf_processor_mm_kwargs: Any, out_mm_kwargs: Any) -> Sequence[Any]:
        own: Any = super()
        updates = own._get_prompt_updates(mm_items, hf_processor_mm_kwargs, out_mm_kwargs)
        return [self._pruned(update, out_mm_kwargs) if update.modality == "image" else update for update in updates]

    def _pruned(self, update: Any, items: Any) -> Any:
        whole: Callable[[int], Any] = update.replacement
        pruning: ImagePruning = self.info.pruning

        def replacement(index: int) -> Any:
            (unit,) = pruning.units(pruning.arguments_of(items["image"][index]))
            return shortened(whole(index), pruning.count(unit))

        return replace(update, replacement=replacement)

    def _get_mm_hashes(self, inputs: Any) -> dict[str, list[str]]:
        """An image's name in all caches says how it is pruned: none is handed to a model with other settings."""
        own: Any = super()
        hashes = own._get_mm_hashes(inputs)
        ours = self.info.pruning.settings.identity
        return {kind: [f"{h}-{ours}" for h in of] if kind == "image" else of for kind, of in hashes.items()}


def shortened(content: Any, count: int) -> Any:
    """What stands for an image in a prompt, with `count` placeholders; what stands around them stays.

    content: ids that are all placeholders, or vLLM's PromptUpdateDetails, which say which of them are.
    """
    if isinstance(content, list):
        return content[:1] * count
    if content.is_embed is None:
        return replace(content, full=content.full[:1] * count)
    embedded = content.is_embed(content.full)
    stays = ~embedded | (embedded.cumsum(0) <= count)
    left = embedded[stays]
    full = [token for token, there in zip(content.full, stays.tolist(), strict=True) if there]
    return replace(content, full=full, is_embed=lambda _: left)
