"""SmolVLM and SmolVLM2 (arXiv 2504.05299): laid out as Idefics3. A frame of a video is an image without tiles."""

from __future__ import annotations

from typing import Any

from groundprune.families.base import register_family
from groundprune.families.idefics3 import Idefics3, tiny_sizes


@register_family
class SmolVLM(Idefics3):
    """Trained on no words for boxes either: see `Idefics3`."""

    name = "smolvlm"
    model_types = ("smolvlm",)

    def tiny_config(self, layers: int = 4, side: int = 6, **options: Any) -> Any:
        from transformers import SmolVLMConfig
        from transformers.models.smolvlm.configuration_smolvlm import SmolVLMVisionConfig

        return SmolVLMConfig(**tiny_sizes(SmolVLMVisionConfig, layers, side))
