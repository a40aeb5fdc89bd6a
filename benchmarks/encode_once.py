"""What a sweep saves by running the vision tower once per image, as `evaluate` and `compare` do.

    python -m benchmarks encode-once

A LLaVA with random weights: a tower of CLIP-L's shape at 336 pixels, 576 tokens, and a small LLM, so that the tower
is what costs. The same settings once on pixels, each running the tower, and once on images that were encoded before;
the answers must be identical. Processor time of one thread.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

import groundprune as gp
from benchmarks.storing import store
from benchmarks.turns import processor_seconds
from groundprune.exactness.tiny import tiny_inputs, tiny_of
from groundprune.families.tiny_parts import IMAGE, VOCABULARY

IMAGES, NEW_TOKENS = 2, 4
PRUNERS = [make(keep=keep) for make in (gp.ClsVisual, gp.Random, gp.Spatial) for keep in (0.5, 0.25)]


def llava() -> Any:
    """Of the real config class, with the tower of LLaVA-1.5."""
    vision = CLIPVisionConfig(
        hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, image_size=336,
        patch_size=14, projection_dim=768,
    )  # fmt: skip
    text = LlamaConfig(
        hidden_size=256, intermediate_size=688, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=4,
        vocab_size=VOCABULARY, max_position_embeddings=4096,
    )  # fmt: skip
    return tiny_of(LlavaConfig(vision_config=vision, text_config=text, image_token_index=IMAGE, image_seq_length=576))


@torch.inference_mode()
def main(path: Path) -> None:
    """Measure both ways, and the calls of the tower."""
    torch.set_num_threads(1)
    model = llava()
    inputs = tiny_inputs(model, [(1, 4, 8)] * IMAGES)
    words = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    calls: list[int] = []
    model.model.vision_tower.register_forward_hook(lambda module, args, output: calls.append(len(args[0])))

    def answers(given: dict[str, Any], pruner: gp.Pruner) -> torch.Tensor:
        with gp.prune(model, pruner):
            return model.generate(**given, max_new_tokens=NEW_TOKENS, do_sample=False)

    said: dict[str, list[torch.Tensor]] = {"separate": [], "once": []}

    def separate() -> None:
        said["separate"] = [answers(inputs, pruner) for pruner in PRUNERS]

    def once() -> None:
        encoded = gp.encode(model, inputs, PRUNERS)
        rows = range(IMAGES)
        said["once"] = [answers({**words, "mm_encoder_outputs": encoded.select(rows)}, p) for p in PRUNERS]

    taken, runs = {}, {}
    for name, sweep in (("separate", separate), ("once", once)):
        calls.clear()
        taken[name], runs[name] = round(processor_seconds(sweep), 3), len(calls)
    assert all(torch.equal(a, b) for a, b in zip(said["separate"], said["once"], strict=True))
    ratio = round(taken["separate"] / taken["once"], 2)
    print(taken, runs, ratio)
    store(path, {"images": IMAGES, "settings": len(PRUNERS), "seconds": taken, "tower runs": runs, "ratio": ratio})
