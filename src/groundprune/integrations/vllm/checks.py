"""What cannot work is refused before an engine starts, with the option to change."""

from __future__ import annotations

from typing import Any

from vllm.model_executor.models.config import VerifyAndUpdateConfig

from groundprune.errors import GroundPruneError
from groundprune.integrations.vllm.image_pruning import ImagePruning
from groundprune.integrations.vllm.limits import (
    check_positions,
    encoder_share,
    largest_length,
    most_slots,
    rotary_length,
)
from groundprune.integrations.vllm.requests import EngineLimits
from groundprune.integrations.vllm.settings import KEY, check_servable
from groundprune.integrations.vllm.stored_proofs import check_proven
from groundprune.signals import FINGERPRINT, VIDEO


class PrunedConfig(VerifyAndUpdateConfig):
    """vLLM asks it about every configuration of a pruned model, and lets it change some."""

    @staticmethod
    def verify_and_update_config(vllm_config: Any) -> None:
        """Raises GroundPruneError (Unservable where it is the model) that names the option to change."""
        model = vllm_config.model_config
        pruning = ImagePruning(model.hf_config)
        check_proven(pruning.family.name, vllm_config)
        check_servable(model.hf_config, pruning.pruner)
        _check_engine(vllm_config, pruning)
        if FINGERPRINT in pruning.pruner.needs:  # of the pixels that transformers' processor gives, normalised
            model.multimodal_config.mm_device_do_normalize = False
        if KEY in (model.multimodal_config.mm_processor_kwargs or {}):
            raise GroundPruneError(f"mm_processor_kwargs holds {KEY!r} in requests alone: an engine has hf_overrides")
        # The tower sees all of an image, vLLM counts what is left of it.
        scheduler = vllm_config.scheduler_config
        encoded = scheduler.max_num_encoder_input_tokens
        slots = most_slots(pruning)  # an image that is given less waits for ever
        scheduler.max_num_encoder_input_tokens = max(slots, int(encoded * encoder_share(pruning)))
        scheduler.encoder_cache_size = max(slots, scheduler.encoder_cache_size)
        # What compares frames is given videos alone.
        images = 0 if VIDEO in pruning.pruner.needs else model.multimodal_config.get_limit_per_prompt("image")
        check_positions(pruning, model.max_model_len, images)
        window = model.get_sliding_window()
        if window is not None and window < rotary_length(pruning):
            limit = largest_length(pruning, 1, window)
            if model.max_model_len > limit:
                raise GroundPruneError(
                    f"the model's sliding window of {window} would count the tokens that are left: set max_model_len "
                    f"to at most {limit}, which the window spans"
                )
        reach = rotary_length(pruning) if window is None else min(window, rotary_length(pruning))
        by_content, by_tower = (_given(options) for options in _conditional(vllm_config))
        raw = bool(model.multimodal_config.mm_device_do_normalize)
        EngineLimits(reach, encoded, by_content, by_tower, raw).note(model.hf_config)


def _check_engine(vllm_config: Any, pruning: ImagePruning) -> None:
    parallel, media = vllm_config.parallel_config, vllm_config.model_config.multimodal_config
    compilation, name = vllm_config.compilation_config, pruning.pruner.label
    refused = {
        "speculative_config (--speculative-config)": vllm_config.speculative_config is not None,
        "video_pruning_rate (--video-pruning-rate)": bool(media.video_pruning_rate),
        "enable_mm_embeds (--enable-mm-embeds)": media.enable_mm_embeds,
        "enable_prompt_embeds (--enable-prompt-embeds)": vllm_config.model_config.enable_prompt_embeds,
        "ec_transfer_config": vllm_config.ec_transfer_config is not None,  # it moves features as wide as the LLM
        "enable_dbo (--enable-dbo)": parallel.enable_dbo,
        "prefill_context_parallel_size above 1": parallel.prefill_context_parallel_size > 1,
        "compilation_config.cudagraph_mm_encoder": compilation.cudagraph_mm_encoder,
    }
    by_content, by_tower = _conditional(vllm_config)
    _refuse(refused, "pruned images")
    _refuse({} if pruning.placed_early else by_content, f"a choice by content ({name}), which spatial is not")
    _refuse(by_tower if pruning.tower_needs else {}, f"a score by the tower's attention ({name})")


def _conditional(vllm_config: Any) -> tuple[dict[str, bool], dict[str, bool]]:
    """What does not go together with a choice by content, and by the tower's attention."""
    media, compilation = vllm_config.model_config.multimodal_config, vllm_config.compilation_config
    by_content = {"pipeline_parallel_size above 1": vllm_config.parallel_config.pipeline_parallel_size > 1}
    by_tower = {
        "mm_encoder_tp_mode='data' (--mm-encoder-tp-mode)": media.mm_encoder_tp_mode == "data",
        "compilation_config.compile_mm_encoder": compilation.compile_mm_encoder,
    }
    return by_content, by_tower


def _given(options: dict[str, bool]) -> list[str]:
    return [option for option, given in options.items() if given]


def _refuse(options: dict[str, bool], what: str) -> None:
    for option in _given(options):
        raise GroundPruneError(f"{option} does not go together with {what}: leave the option out")
