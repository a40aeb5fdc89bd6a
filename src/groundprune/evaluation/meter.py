"""What the answers of one model cost: its decoder by formula, its tower and projector counted as they run once."""

from __future__ import annotations

import functools
from typing import Any

import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from groundprune.checkpoints.prompts import chat_prompt, model_inputs
from groundprune.evaluation.accounting import Decoder
from groundprune.evaluation.devices import input_device
from groundprune.families.base import family_of
from groundprune.families.grounding import Grounding
from groundprune.pruning.encoding import encode_inputs

# Attention that the counter sees; kernels from elsewhere it would count as nothing.
COUNTED = ("eager", "sdpa")


class Meter:
    """Counts are kept: one `Meter` serves all runners of a model.

    Args:
        model: what `gp.load` gives.
        processor: likewise.
    """

    def __init__(self, model: Any, processor: Any):
        self._model, self._processor = model, processor
        self._by_size: dict[tuple[Any, ...], int | None] = {}
        self._by_shape: dict[tuple[Any, ...], int | None] = {}

    @functools.cached_property
    def decoder(self) -> Decoder:
        """Of the model, with a cache in its dtype."""
        return Decoder.of(self._model.config, self._model.dtype.itemsize)

    def tower_flops(self, grounding: Grounding, size: tuple[int, int]) -> int | None:
        """Operations of the vision tower and the projector on one image, see `groundprune.evaluation.accounting`.

        The size of an image alone says how often and how large the tower sees it, so a blank one is encoded; once
        per size, and once for all sizes that the processor makes equal.

        Args:
            grounding: what the model is asked with.
            size: of the image, width and height in pixels.

        Returns:
            None where the tower runs in kernels that torch's counter does not see: see `tower_flops`.
        """
        key = (grounding.frame, *size)
        if key not in self._by_size:
            prompt = chat_prompt(self._processor, "it", grounding.turn)
            inputs = model_inputs(self._processor, grounding, [Image.new("RGB", size)], [prompt])
            shape = tuple((name, _shape(value)) for name, value in inputs.items() if name not in _TEXT)
            if shape not in self._by_shape:
                given = dict(inputs.to(input_device(self._model), self._model.dtype))
                self._by_shape[shape] = tower_flops(self._model, given)
            self._by_size[key] = self._by_shape[shape]
        return self._by_size[key]


@torch.no_grad()
def tower_flops(model: Any, inputs: dict[str, Any]) -> int | None:
    """Run the tower and the projector, and count.

    Args:
        model: of a known family.
        inputs: what the processor gives, with pixels.

    Returns:
        None where attention, or what is quantised, runs in kernels that torch's counter does not see.
    """
    if model.config.vision_config._attn_implementation not in COUNTED or hasattr(model.config, "quantization_config"):
        return None
    cpu = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention}
    with FlopCounterMode(display=False, custom_mapping=cpu) as counter:
        encode_inputs(model.base_model, family_of(model.config), inputs, frozenset())
    return counter.get_total_flops()


_TEXT = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")  # say nothing of the image


def _shape(value: torch.Tensor) -> tuple[Any, ...]:
    """What of an argument of the tower its cost depends on: of pixels the shape, of grids and masks the values."""
    return (*value.shape, b"" if value.is_floating_point() else value.cpu().numpy().tobytes())


def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """Of the kernel that torch's own table lacks."""
    return sdpa_flop_count(query, key, value)
