"""What pruned models share whose images hold text in the prompt, see `SpelledImage`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from vllm.multimodal.inputs import MultiModalFieldConfig

from groundprune.errors import GroundPruneError
from groundprune.integrations.vllm.image_pruning import ImagePruning
from groundprune.integrations.vllm.limits import most_tokens
from groundprune.integrations.vllm.processors import PrunedProcessor
from groundprune.integrations.vllm.pruned import Pruned
from groundprune.integrations.vllm.spelled import IDS, SpelledImage


class SpelledProcessor(PrunedProcessor):
    """Mixin, as `PrunedProcessor`: what stands for an image in the unpruned prompt goes along with its pixels."""

    def _postprocess_hf_mm_data(self, mm_data: Mapping[str, Any], options: Any, processed: Any) -> Any:
        own: Any = super()
        found = own._postprocess_hf_mm_data(mm_data, options, processed)
        images = mm_data.get("images")
        if images:
            items = self.info.parse_mm_data({"image": images}, validate=False)
            stock: Any = super(PrunedProcessor, self)
            (update,) = stock._get_prompt_updates(items, options, {})
            found[IDS] = [torch.tensor(update.replacement(i).full) for i in range(len(images))]
        return found

    def _get_mm_fields_config(self, inputs: Any, options: Any) -> Mapping[str, Any]:
        own: Any = super()
        ours = MultiModalFieldConfig.batched("image", keep_on_cpu=True)
        return {**own._get_mm_fields_config(inputs, options), IDS: ours}

    def _pruned(self, update: Any, items: Any, pruning: ImagePruning) -> Any:
        def replacement(index: int) -> list[int]:
            image: Any
            (image,) = pruning.units(pruning.arguments_of(items["image"][index]))
            most = most_tokens(pruning.config)
            if len(image.visual) > most:
                raise GroundPruneError(
                    f"an image has {len(image.visual)} tokens; inside of vLLM {pruning.family.name} is served with "
                    f"at most {most}: leave `size` out of mm_processor_kwargs"
                )
            return image.prompt(pruning.count(image))

        return replace(update, replacement=replacement)


class PrunedSpelled(Pruned):
    """Mixin: the text of an image's range is embedded behind the tower."""

    get_language_model: Any

    def _parse_and_validate_image_input(self, **given: Any) -> Any:
        own: Any = super()
        found = own._parse_and_validate_image_input(**given)
        if found is not None:
            found.image_ids = given[IDS]
        return found

    def all_of(self, image: SpelledImage, features: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
        text = image.text.to(features.device)
        whole = features.new_empty(len(image), features.shape[-1])
        whole[image.visual.to(features.device)] = features
        ids = image.ids.to(features.device)[text]
        whole[text] = self.get_language_model().embed_input_ids(ids).to(features)
        return whole, image.slots(kept)
