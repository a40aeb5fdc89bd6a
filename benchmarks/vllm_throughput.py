"""Time of a request in vLLM: stock, and ours at several shares of kept tokens, in turns.

    make test-vllm ARGS=--collect-only   # makes the environment
    .venv-vllm/bin/python -m benchmarks vllm-throughput

A LLaVA with random weights, 576 tokens an image, a small tower and an LLM of 8 layers, whose prefill is what costs:
every request has an image of its own and asks for 4 tokens. vLLM on a CPU, eager, fp32, without prefix caching, one
thread. Each engine has a process of its own, which waits while the others have their turn; within a round all get
the same requests, all at once. Processor time is what its process used, preprocessing included; wall-clock time is as
good as the machine is idle.
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load, save_file
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaProcessor

import groundprune as gp
from benchmarks.storing import store
from benchmarks.turns import ratio, take_turns, told
from groundprune.errors import GroundPruneError
from groundprune.exactness.tiny import tiny_of
from groundprune.integrations.vllm import check_version
from groundprune.pocket import checkpoint_path

SETTINGS = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR", "TORCHDYNAMO_DISABLE": "1", "OMP_NUM_THREADS": "1",
}  # fmt: skip
STOCK = "stock"
ENGINES = {STOCK: None, "keep 1": 1, "keep 0.5": 0.5, "keep 0.25": 0.25}  # by name, the share that stays
REQUESTS, NEW_TOKENS, SIDE, PATCH = 6, 4, 336, 14
PROMPT = "user: <image> locate the red circle assistant:"


class Cost(NamedTuple):
    """Seconds of a request, on average, and the slots that its prompt takes."""

    processor: float
    wall: float
    slots: int


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
    # Published LLaVA checkpoints, and so stock vLLM, have a level in the names that transformers 5 leaves out.
    weights = load((file := folder / "model.safetensors").read_bytes())
    named = {name.replace("vision_tower.", "vision_tower.vision_model."): value for name, value in weights.items()}
    save_file(named, file, metadata={"format": "pt"})
    processor.save_pretrained(folder)


class Engine:
    """One engine in a process of its own. keep: None for stock vLLM."""

    def __init__(self, folder: str, keep: float | None):
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_answer, args=(theirs, folder, keep), daemon=True)
        self._process.start()
        theirs.close()
        self._seeds = itertools.count()

    def measure(self) -> Cost:
        """Of the next requests. Raises GroundPruneError where the process ended."""
        try:
            self._connection.send(next(self._seeds))
            return self._connection.recv()
        except (EOFError, OSError) as error:
            raise GroundPruneError("an engine ended by itself; its log is above") from error


def requests(seed: int) -> list[dict[str, Any]]:
    """Each with an image of its own, of noise."""
    noise = np.random.default_rng(seed).integers(0, 256, (REQUESTS, SIDE, SIDE, 3), dtype=np.uint8)
    return [{"prompt": PROMPT, "multi_modal_data": {"image": Image.fromarray(pixels)}} for pixels in noise]


def _answer(connection: Connection, folder: str, keep: float | None) -> None:
    from vllm import LLM, SamplingParams

    llm = LLM(
        folder, hf_overrides={} if keep is None else gp.vllm_overrides(folder, gp.ClsVisual(keep=keep)),
        dtype="float32", enforce_eager=True, distributed_executor_backend="uni", max_model_len=2048,
        enable_prefix_caching=False, limit_mm_per_prompt={"image": 1}, seed=0,
    )  # fmt: skip
    given = SamplingParams(temperature=0, max_tokens=NEW_TOKENS, ignore_eos=True)
    with contextlib.suppress(EOFError):  # nobody asks any more
        while True:
            asked = requests(connection.recv())
            wall, processor = time.perf_counter(), time.process_time()
            said = llm.generate(asked, given, use_tqdm=False)
            processor, wall = time.process_time() - processor, time.perf_counter() - wall
            slots = len(said[0].prompt_token_ids or ())
            connection.send(Cost(processor / REQUESTS, wall / REQUESTS, slots))


def compare(engines: Mapping[str, Callable[[], Cost]], rounds: int) -> dict[str, Any]:
    """Both times in each round, their medians, and their ratios to stock. engines: by name, what measures itself."""
    costs: dict[str, list[Cost]] = {name: [] for name in engines}

    def processor(name: str) -> float:
        costs[name].append(engines[name]())
        return costs[name][-1].processor

    seconds = {"processor": take_turns({name: partial(processor, name) for name in engines}, rounds)}
    walls = {name: [round(cost.wall, 6) for cost in each] for name, each in costs.items()}
    seconds["wall"] = [dict(zip(walls, each, strict=True)) for each in zip(*walls.values(), strict=True)][1:]
    return {
        "slots": {name: each[-1].slots for name, each in costs.items()},
        "seconds": seconds,
        "median": {
            clock: {name: round(statistics.median(each[name] for each in taken), 4) for name in engines}
            for clock, taken in seconds.items()
        },
        "ratios": {
            clock: {name: ratio(taken, name, STOCK) for name in engines if name != STOCK}
            for clock, taken in seconds.items()
        },
    }  # fmt: skip


def main(path: Path, rounds: int) -> None:
    """Start all engines, and let them take turns."""
    version = check_version()
    os.environ |= SETTINGS  # of the processes that are started
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        save_checkpoint(Path(folder))
        engines = {name: Engine(folder, keep) for name, keep in ENGINES.items()}
        found = compare({name: engine.measure for name, engine in engines.items()}, rounds)
    for clock, ratios in found["ratios"].items():
        print(f"{clock}: {told(ratios)}")
    about = {"vllm": version, "pruner": "cls-visual", "requests": REQUESTS, "new_tokens": NEW_TOKENS}
    store(path, {**about, **found})
