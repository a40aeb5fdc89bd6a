"""Qwen3.5: Qwen3-VL's prompts and positions, without DeepStack; three of four LLM layers are linear attention."""

from __future__ import annotations

from typing import Any, ClassVar

from groundprune.families.base import register_family
from groundprune.families.qwen3_vl import Qwen3VL


@register_family
class Qwen35(Qwen3VL):
    """A gated delta net with a short causal convolution in most layers: no key, no position id, a state per layer.

    Such a layer knows the order of tokens by counting those that it saw. Rotary embeddings, of a quarter of a head's
    channels, are those of the full attention layers alone. `grounding` is Qwen3-VL's, taken over: no cookbook of this
    family was read.
    """

    name = "qwen3_5"
    model_types = ("qwen3_5", "qwen3_5_moe")
    tiny_tower: ClassVar[dict[str, Any]] = {
        "hidden_size": 32, "intermediate_size": 64, "out_hidden_size": 64, "num_position_embeddings": 64,
    }  # fmt: skip
    # Half of a head's channels turn: a quarter of a tiny head would leave no frequency for each axis.
    tiny_text: ClassVar[dict[str, Any]] = {
        "head_dim": 32, "linear_key_head_dim": 16, "linear_value_head_dim": 16, "linear_num_key_heads": 2,
        "linear_num_value_heads": 4, "partial_rotary_factor": 0.5,
    }  # fmt: skip

    def tiny_config(self, layers: int = 4, interval: int = 2, **options: Any) -> Any:
        """interval: one layer in so many is full attention; in checkpoints 4. With 2 linear ones stand behind it."""
        config = super().tiny_config(layers, **options)
        kinds = ["linear_attention"] * (interval - 1) + ["full_attention"]
        config.text_config.layer_types = [kinds[index % interval] for index in range(layers)]
        return config
