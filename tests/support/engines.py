"""Tiny checkpoints that vLLM loads, and the same prompt through transformers and through vLLM."""

from __future__ import annotations

import contextlib
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

import groundprune as gp
from groundprune.exactness.tiny import tiny_of
from groundprune.families import families, family_of
from support.layouts import LAYOUTS

HEADS, HEAD = 4, 32  # of the LLM; vLLM's kernels for CPUs have no smaller heads
STEPS = 12  # new tokens
SECTIONS = {"qwen2_5_vl": [4, 6, 6], "qwen3_vl": [8, 4, 4]}  # of a head's 16 frequencies
TOLERANCE = 5e-4  # of a log-probability


class Said(NamedTuple):
    """ids: the new tokens. logprobs: [steps, V]. columns: that the LLM read. cached: of them, reused."""

    ids: list[int]
    logprobs: torch.Tensor
    columns: int
    cached: int = 0


def save_checkpoint(family, folder, config=None, **text):
    """A random model of a family in the layout of its real checkpoints. text: changes of the LLM's config."""
    config = families()[family].tiny_config() if config is None else config
    given = {"hidden_size": HEADS * HEAD, "head_dim": HEAD, "max_position_embeddings": 1024, "eos_token_id": None}
    for name, value in (given | text).items():
        setattr(config.text_config, name, value)
    if family in SECTIONS:
        config.vision_config.out_hidden_size = HEADS * HEAD
        # Qwen3-VL's checkpoints say that axes take turns, transformers' class does not ask.
        rope = {"mrope_section": SECTIONS[family], "mrope_interleaved": family == "qwen3_vl"}
        config.text_config.rope_parameters |= rope
    tiny_of(config).save_pretrained(folder)
    LAYOUTS[family].save(folder, config)
    return folder


def photo(seed, width=48, height=48):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def video(seed, frames=8, width=48, height=32, fps=8.0):
    """(frames, metadata), as vLLM takes it: each frame is the one before with some noise on it."""
    rng = np.random.default_rng(seed)
    steps = rng.integers(0, 256, (frames, height, width, 3)) * rng.choice([0, 0.25, 1], (frames, 1, 1, 1))
    shown = (rng.integers(0, 256, (height, width, 3)) + steps.cumsum(0)) % 256
    about = {"fps": fps, "duration": frames / fps, "total_num_frames": frames, "frames_indices": list(range(frames)),
             "video_backend": "opencv", "do_sample_frames": False}  # fmt: skip
    return shown.astype(np.uint8), about


def prompt(processor, images, words):
    """images: how many stand in it."""
    content = [{"type": "image"}] * images + [{"type": "text", "text": words}]
    return processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)


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


def asked(text, images, videos=()):
    """videos: (frames, metadata) each, see `video`."""
    given = {"image": list(images), "video": list(videos)}
    media = {kind: items for kind, items in given.items() if items}
    return {"prompt": text, "multi_modal_data": media} if media else {"prompt": text}


def by_vllm(llm, requests, steps=STEPS):
    """requests: (text, images) or (text, images, videos) each; all at once."""
    return say(llm, [asked(*request) for request in requests], steps)


def say(llm, prompts, steps=STEPS):
    """prompts: as vLLM takes them."""
    from vllm import SamplingParams

    greedy = SamplingParams(temperature=0, max_tokens=steps, ignore_eos=True, logprobs=-1)
    return [_said(output) for output in llm.generate(prompts, greedy, use_tqdm=False)]


def _said(output):
    first = output.outputs[0]
    rows = [[row[i].logprob for i in range(len(row))] for row in first.logprobs]
    return Said(
        list(first.token_ids), torch.tensor(rows), len(output.prompt_token_ids), output.num_cached_tokens or 0
    )


def by_transformers(model, processor, requests, pruner, positions="preserved", steps=STEPS):
    """The same through `gp.prune`, one prompt at a time."""
    return [_one(model, processor, pruner, positions, steps, *request) for request in requests]


def _one(model, processor, pruner, positions, steps, text, images, videos=()):
    media = {"images": [list(images)]} if images else {}
    if videos:
        about = [{name: value for name, value in of.items() if name != "do_sample_frames"} for _, of in videos]
        media |= {"videos": [[frames for frames, _ in videos]], "video_metadata": [about], "do_sample_frames": False}
    inputs = processor(text=[text], return_tensors="pt", **media)
    with gp.prune(model, pruner, positions) as run:
        output = model.generate(
            **inputs, max_new_tokens=steps, min_new_tokens=steps, do_sample=False, output_logits=True,
            return_dict_in_generate=True,
        )  # fmt: skip
        length = inputs["input_ids"].shape[1]
        lost = len(run.layout[0]) - len(run.kept[0]) if media else 0
    logprobs = torch.cat(output.logits).float().log_softmax(-1)
    return Said(output.sequences[0, length:].tolist(), logprobs, length - lost)


def difference(found, expected):
    """The largest difference of two runs' log-probabilities, at any step, of any token of the vocabulary."""
    return max(float((a.logprobs - b.logprobs).abs().max()) for a, b in zip(found, expected, strict=True))


def image_token(config):
    return family_of(config).token_ids(config)["image"]
