"""A prompt through mlx-vlm, to stand beside what `support.engines` says of the same through transformers."""

from __future__ import annotations

import numpy as np
import torch

from support.engines import STEPS, Said, photo

TURN = "<|im_start|>user\n{images}{words}<|im_end|>\n<|im_start|>assistant\n"
# Qwen's own template; mlx-vlm counts images by the mark before them.
IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"


def prompt(images, words):
    return TURN.format(images=IMAGE * images, words=words)


REQUESTS = [
    (prompt(1, "the red circle w20"), [photo(1, 48, 40)]),
    (prompt(2, "w30 circle w40 w41 the"), [photo(2, 40, 64), photo(3, 100, 30)]),
]
TEXT = (prompt(0, "the red w50 w51"), [])


def by_mlx(model, processor, requests, steps=STEPS, **options):
    """One after another, greedy."""
    return [_one(model, processor, text, images, steps, options) for text, images in requests]


def _one(model, processor, text, images, steps, options):
    import mlx.core as mx
    from mlx_vlm import stream_generate

    stream = stream_generate(model, processor, text, image=images, max_tokens=steps, temperature=0.0, **options)
    said = list(stream)[:steps]  # the last comes twice
    logprobs = np.stack([np.array(each.logprobs.astype(mx.float32)) for each in said])
    return Said(
        [each.token for each in said], torch.from_numpy(logprobs), said[0].prompt_tokens, said[0].cached_tokens
    )
