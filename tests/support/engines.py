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
SECTIONS = {"qwen2_5_vl": [4, 6, 6], "qwen3_vl": [8, 4, 4], "qwen2_vl": [4, 6, 6]}  # of a head's 16 frequencies
TOLERANCE = 5e-4  # of a log-probability
# Of tiny configs: with an even number of tokens a tile, so that half of each is half of all.
OPTIONS = {"internvl": {"side": 8}, "idefics3": {"side": 8}, "smolvlm": {"side": 8}}


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
        # What Qwen2-VL calls the hidden size of its tower is that of the LLM, too.
        out = "hidden_size" if family == "qwen2_vl" else "out_hidden_size"
        setattr(config.vision_config, out, HEADS * HEAD)
        # Qwen3-VL's checkpoints say that axes take turns, transformers' class does not ask.
        rope = {"mrope_section": SECTIONS[family], "mrope_interleaved": family == "qwen3_vl"}
        config.text_config.rope_parameters |= rope
    tiny_of(config).save_pretrained(folder)
    LAYOUTS[family].save(folder, config)
    return folder


def photo(seed, width=48, height=48):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


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


def asked(text, images):
    return {"prompt": text, "multi_modal_data": {"image": list(images)}} if images else {"prompt": text}


def by_vllm(llm, requests, steps=STEPS):
    """requests: (text, images) each; all at once."""
    return say(llm, [asked(*request) for request in requests], steps)


def say(llm, prompts, steps=STEPS, **options):
    """prompts: as vLLM takes them; options: of its `generate`."""
    from vllm import SamplingParams

    greedy = SamplingParams(temperature=0, max_tokens=steps, ignore_eos=True, logprobs=-1)
    return [_said(output) for output in llm.generate(prompts, greedy, use_tqdm=False, **options)]


def _said(output):
    first = output.outputs[0]
    rows = [[row[i].logprob for i in range(len(row))] for row in first.logprobs]
    return Said(
        list(first.token_ids), torch.tensor(rows), len(output.prompt_token_ids), output.num_cached_tokens or 0
    )


def by_transformers(model, processor, requests, pruner, positions="preserved", steps=STEPS):
    """The same through `gp.prune`, one prompt at a time."""
    return [_one(model, processor, text, images, pruner, positions, steps) for text, images in requests]


def _one(model, processor, text, images, pruner, positions, steps):
    # vLLM cuts each of LLaVA-OneVision's images into tiles, transformers only those of a list that is not nested.
    given = list(images) if model.config.model_type == "llava_onevision" else [list(images)]
    inputs = processor(text=[text], return_tensors="pt", **({"images": given} if images else {}))
    with gp.prune(model, pruner, positions) as run:
        output = model.generate(
            **inputs, max_new_tokens=steps, min_new_tokens=steps, do_sample=False, output_logits=True,
            return_dict_in_generate=True,
        )  # fmt: skip
        length = inputs["input_ids"].shape[1]
        lost = len(run.layout[0]) - len(run.kept[0]) if images else 0
    logprobs = torch.cat(output.logits).float().log_softmax(-1)
    return Said(output.sequences[0, length:].tolist(), logprobs, length - lost)


def difference(found, expected):
    """The largest difference of two runs' log-probabilities, at any step, of any token of the vocabulary."""
    return max(float((a.logprobs - b.logprobs).abs().max()) for a, b in zip(found, expected, strict=True))


def image_token(config):
    return family_of(config).token_ids(config)["image"]
