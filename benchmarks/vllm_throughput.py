"""Requests per second of vLLM at several shares of kept tokens, in one run.

    make test-vllm ARGS=--collect-only   # makes the environment
    .venv-vllm/bin/python -m benchmarks vllm-throughput

A LLaVA with random weights, 576 tokens an image, a small tower and an LLM of 8 layers, whose prefill is what costs:
every request has an image of its own and asks for 4 tokens. vLLM on a CPU, eager, fp32, without prefix caching. Each
share has an engine of its own; they take turns, forth and back. Wall-clock time, for vLLM works on several threads.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ |= {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR", "TORCHDYNAMO_DISABLE": "1",
}  # fmt: skip

import numpy as np
from PIL import Image
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaProcessor

import groundprune as gp
from benchmarks.storing import store
from groundprune.exactness.tiny import tiny_of
from groundprune.integrations.vllm import check_version
from groundprune.pocket import checkpoint_path

KEEPS = (1, 0.5, 0.25)
REQUESTS, NEW_TOKENS, SIDE, PATCH = 12, 4, 336, 14
PROMPT = "user: <image> locate the red circle assistant:"


def save_checkpoint(folder: Path) -> None:
    """In the layout of LLaVA-1.5's, with the pocket's words."""
    processor = LlavaProcessor.from_pretrained(checkpoint_path())
    processor.patch_size = PATCH
    processor.image_processor.size = {"shortest_edge": SIDE}
    processor.image_processor.crop_size = {"height": SIDE, "width": SIDE}
    tokenizer: Any = processor.tokenizer
    vision = CLIPVisionConfig(
        hidden_size=256, intermediate_size=512, num_hidden_layers=3, num_attention_heads=4, image_size=SIDE,
        patch_size=PATCH, projection_dim=64,
    )  # fmt: skip
    text = LlamaConfig(
        hidden_size=768, intermediate_size=2048, num_hidden_layers=8, num_attention_heads=12, num_key_value_heads=12,
        vocab_size=len(tokenizer), max_position_embeddings=4096, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    image = tokenizer.convert_tokens_to_ids("<image>")
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=image, image_seq_length=(SIDE // PATCH) ** 2
    )
    tiny_of(config).save_pretrained(folder)
    processor.save_pretrained(folder)


def measure(folder: Path, keep: float, seed: int) -> tuple[float, int]:
    """Requests per second, and the slots that a prompt takes."""
    from vllm import LLM, SamplingParams

    noise = np.random.default_rng(seed).integers(0, 256, (REQUESTS + 1, SIDE, SIDE, 3), dtype=np.uint8)
    asked = [{"prompt": PROMPT, "multi_modal_data": {"image": Image.fromarray(pixels)}} for pixels in noise]
    given = SamplingParams(temperature=0, max_tokens=NEW_TOKENS, ignore_eos=True)
    llm = LLM(
        str(folder), hf_overrides=gp.vllm_overrides(folder, gp.ClsVisual(keep=keep)), dtype="float32",
        enforce_eager=True, distributed_executor_backend="uni", max_model_len=2048, enable_prefix_caching=False,
        limit_mm_per_prompt={"image": 1}, seed=0,
    )  # fmt: skip
    slots = len(llm.generate(asked[-1:], given, use_tqdm=False)[0].prompt_token_ids or ())  # and warms up
    start = time.perf_counter()
    llm.generate(asked[:-1], given, use_tqdm=False)
    rate = REQUESTS / (time.perf_counter() - start)
    llm.llm_engine.engine_core.shutdown()
    return rate, slots


def main(path: Path) -> None:
    """Measure each share twice, in opposite orders."""
    found: dict[float, list[float]] = {keep: [] for keep in KEEPS}
    slots: dict[float, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        save_checkpoint(Path(folder))
        for seed, keep in enumerate((*KEEPS, *reversed(KEEPS))):
            rate, slots[keep] = measure(Path(folder), keep, seed)
            found[keep].append(round(rate, 3))
            print(keep, slots[keep], found[keep], flush=True)
    rates = {str(keep): round(statistics.mean(each), 3) for keep, each in found.items()}
    ratios = {keep: round(rate / rates["1"], 2) for keep, rate in rates.items()}
    print(rates, ratios)
    about = {"vllm": check_version(), "pruner": "cls-visual", "requests": REQUESTS, "new_tokens": NEW_TOKENS}
    measured = {str(keep): each for keep, each in found.items()}
    slots_of = {str(keep): count for keep, count in slots.items()}
    store(path, {**about, "slots": slots_of, "measured": measured, "requests_per_second": rates, "ratio": ratios})
