"""vLLM in the tests' own process, and how far what it says is from what transformers says."""

from __future__ import annotations

import contextlib

import numpy as np

import groundprune as gp
from groundprune.exactness.folders import HEAD, HEADS, OPTIONS, SECTIONS, photo, prompt, save_checkpoint
from groundprune.families import family_of
from groundprune.integrations.vllm.saying import STEPS, Said, asked, by_transformers, say

__all__ = [
    "HEAD", "HEADS", "OPTIONS", "SECTIONS", "STEPS", "TOLERANCE", "Said", "asked", "by_transformers", "by_vllm",
    "difference", "engine", "image_token", "photo", "prompt", "save_checkpoint", "say", "video",
]  # fmt: skip

TOLERANCE = 5e-4  # of a log-probability


def video(seed, frames=8, width=48, height=32, fps=8.0):
    """(frames, metadata), as vLLM takes it: each frame is the one before with some noise on it."""
    rng = np.random.default_rng(seed)
    steps = rng.integers(0, 256, (frames, height, width, 3)) * rng.choice([0, 0.25, 1], (frames, 1, 1, 1))
    shown = (rng.integers(0, 256, (height, width, 3)) + steps.cumsum(0)) % 256
    about = {"fps": fps, "duration": frames / fps, "total_num_frames": frames, "frames_indices": list(range(frames)),
             "video_backend": "opencv", "do_sample_frames": False}  # fmt: skip
    return shown.astype(np.uint8), about


@contextlib.contextmanager
def engine(folder, pruner, positions="preserved", overrides=None, **options):
    """vLLM with a pruned model, in fp32, eager, in this process."""
    from vllm import LLM

    given = {
        "dtype": "float32", "enforce_eager": True, "distributed_executor_backend": "uni", "block_size": 32,
        "max_model_len": 512, "limit_mm_per_prompt": {"image": 2}, "max_logprobs": -1, "seed": 0,
        "mm_device_do_normalize": False, "disable_log_stats": False, **options,
    }  # fmt: skip
    ours = gp.vllm_overrides(folder, pruner, positions) if overrides is None else overrides
    llm = LLM(str(folder), hf_overrides=ours, **given)
    try:
        yield llm
    finally:
        # The caller still holds it: what it would take along later belongs to the next engine by then.
        llm.llm_engine.engine_core.shutdown()


def by_vllm(llm, requests, steps=STEPS):
    """requests: (text, images) or (text, images, videos) each; all at once."""
    return say(llm, [asked(*request) for request in requests], steps)


def difference(found, expected):
    """The largest difference of two runs' log-probabilities, at any step, of any token of the vocabulary."""
    return max(float((a.logprobs - b.logprobs).abs().max()) for a, b in zip(found, expected, strict=True))


def image_token(config):
    return family_of(config).token_ids(config)["image"]
