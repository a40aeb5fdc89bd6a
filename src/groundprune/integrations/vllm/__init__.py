"""Pruned models for vLLM: prompts take fewer KV slots from the start, and every token keeps its position.

vLLM loads `register` in each of its processes (entry point `vllm.general_plugins`). A model is pruned only where
`hf_overrides` asks for it (see `vllm_overrides`); all others run as if this package were not there.
"""

from __future__ import annotations

from groundprune.integrations.vllm.settings import ARCHITECTURES, vllm_overrides
from groundprune.integrations.vllm.versions import SUPPORTED, check_version

__all__ = ["SUPPORTED", "check_version", "register", "vllm_overrides"]


def register() -> None:
    """Make the pruned models known to vLLM, and have their settings checked before an engine starts."""
    from vllm.model_executor.models.config import MODELS_CONFIG_MAP
    from vllm.model_executor.models.registry import ModelRegistry

    from groundprune.integrations.vllm.admission import guard
    from groundprune.integrations.vllm.checks import PrunedConfig
    from groundprune.integrations.vllm.running import note_cause

    for architecture, place in ARCHITECTURES.values():
        ModelRegistry.register_model(architecture, f"{__name__}.{place}")
        MODELS_CONFIG_MAP[architecture] = PrunedConfig
    note_cause()
    guard()
