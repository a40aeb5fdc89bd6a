"""Tiny random models as folders, in the layout of real checkpoints, which any engine loads without a download."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from groundprune.exactness.layouts import LAYOUTS
from groundprune.exactness.tiny import tiny_of
from groundprune.families import families

HEADS, HEAD = 4, 32  # of the LLM; vLLM's kernels for CPUs have no smaller heads
SECTIONS = {"qwen2_5_vl": [4, 6, 6], "qwen3_vl": [8, 4, 4], "qwen2_vl": [4, 6, 6]}  # of a head's 16 frequencies
# Of tiny configs: with an even number of tokens a tile, so that half of each is half of all.
OPTIONS = {"internvl": {"side": 8}, "idefics3": {"side": 8}, "smolvlm": {"side": 8}}


def save_checkpoint(
    family: str, folder: Path, config: Any = None, dtype: torch.dtype = torch.float32, **text: Any
) -> Path:
    """Write a random model of a family in the layout of its real checkpoints: config, weights, processor, tokenizer.

    Args:
        family: one of `LAYOUTS`.
        folder: made where it is missing.
        config: of the family; by default that of its tiny model.
        dtype: to which the weights, stored in fp32, are rounded.
        **text: changes of the LLM's config.

    Returns:
        The folder.
    """
    config = families()[family].tiny_config(**OPTIONS.get(family, {})) if config is None else config
    given = {"hidden_size": HEADS * HEAD, "head_dim": HEAD, "max_position_embeddings": 1024, "eos_token_id": None}
    for name, value in (given | text).items():
        setattr(config.text_config, name, value)
    if family in SECTIONS:
        # What Qwen2-VL calls the hidden size of its tower is that of the LLM, too.
        out = "hidden_size" if family == "qwen2_vl" else "out_hidden_size"
        setattr(config.vision_config, out, HEADS * HEAD)
        # Qwen3-VL's checkpoints say that axes take turns, transformers' class does not ask.
        rope = {"mrope_section": SECTIONS[family], "mrope_interleaved": family == "qwen3_vl"}
        config.text_config.rope_parameters |= rope
    tiny_of(config).to(dtype).float().save_pretrained(folder)
    LAYOUTS[family].save(folder, config)
    return folder


def photo(seed: int, width: int = 48, height: int = 48) -> Image.Image:
    """An image of noise, sizes in pixels."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def prompt(processor: Any, images: int, words: str) -> str:
    """One turn of a user in the checkpoint's chat template; images: how many stand before the words."""
    content = [{"type": "image"}] * images + [{"type": "text", "text": words}]
    return processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
