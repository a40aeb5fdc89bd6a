"""What cannot work is refused before an engine starts, with the option to change."""

from __future__ import annotations

from typing import Any

from vllm.model_executor.models.config import VerifyAndUpdateConfig

from groundprune.errors import GroundPruneError
from groundprune.integrations.vllm import check_version
from groundprune.integrations.vllm.images import ImagePruning
from groundprune.integrations.vllm.limits import check_positions, largest_length, rotary_length
from groundprune.integrations.vllm.settings import check_servable
from groundprune.signals import FINGERPRINT


class PrunedConfig(VerifyAndUpdateConfig):
    """vLLM asks it about every configuration of a pruned model."""

    @staticmethod
    def verify_and_update_config(vllm_config: Any) -> None:
        """Raises GroundPruneError (Unservable where it is the model) that names the option to change."""
        check_version()
        model = vllm_config.model_config
        pruning = ImagePruning(model.hf_config)
        check_servable(model.hf_config, pruning.pruner)
        _check_engine(vllm_config, pruning)
        images = model.multimodal_config.get_limit_per_prompt("image")
        check_positions(pruning, model.max_model_len, images)
        window = model.get_sliding_window()
        if window is not None and window < rotary_length(pruning):
            limit = largest_length(pruning, 1, window)
            if model.max_model_len > limit:
                raise GroundPruneError(
                    f"the model's sliding window of {window} would count the tokens that are left: set max_model_len "
                    f"to at most {limit}, which the window spans"
                )


def _check_engine(vllm_config: Any, pruning: ImagePruning) -> None:
    parallel, media = vllm_config.parallel_config, vllm_config.model_config.multimodal_config
    compilation, name = vllm_config.compilation_config, pruning.pruner.label
    refused = {
        "speculative_config (--speculative-config)": vllm_config.speculative_config is not None,
        "video_pruning_rate (--video-pruning-rate)": bool(media.video_pruning_rate),
        "enable_mm_embeds (--enable-mm-embeds)": media.enable_mm_embeds,
        "enable_dbo (--enable-dbo)": parallel.enable_dbo,
        "prefill_context_parallel_size above 1": parallel.prefill_context_parallel_size > 1,
        "compilation_config.cudagraph_mm_encoder": compilation.cudagraph_mm_encoder,
    }
    by_content = {"pipeline_parallel_size above 1": parallel.pipeline_parallel_size > 1}
    by_tower = {
        "mm_encoder_tp_mode='data' (--mm-encoder-tp-mode)": media.mm_encoder_tp_mode == "data",
        "compilation_config.compile_mm_encoder": compilation.compile_mm_encoder,
    }
    by_pixels = {"mm_device_do_normalize (give --no-mm-device-do-normalize)": media.mm_device_do_normalize}
    _refuse(refused, "pruned images")
    _refuse({} if pruning.settled else by_content, f"a choice by content ({name}); spatial goes with it")
    _refuse(by_tower if pruning.tower_needs else {}, f"a score by the tower's attention ({name})")
    _refuse(
        by_pixels if FINGERPRINT in pruning.pruner.needs and not pruning.settled else {}, f"{name}'s fingerprints"
    )


def _refuse(options: dict[str, bool], what: str) -> None:
    for option, given in options.items():
        if given:
            raise GroundPruneError(f"{option} does not go together with {what}: leave the option out")
