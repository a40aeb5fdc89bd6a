"""The prefill of 2,880 visual tokens with FastV, against the unpruned model and against FastV's own way to read.

    python -m benchmarks fastv-prefill

A LLaVA with random weights: five images of 24 x 24 tokens, an LLM of 8 layers and width 512, sdpa. FastV prunes at
layer 2 and leaves a quarter there; `keep` is the average over the layers, (2 + 6 / 4) / 8. Its authors' code runs
eager attention and asks for the attention of all rows (`output_attentions=True`); so does the third variant. Images
are encoded before. The variants take turns within one run; processor time of one thread.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

import groundprune as gp
from benchmarks.storing import store
from benchmarks.turns import processor_seconds
from groundprune.exactness.tiny import tiny_inputs, tiny_of
from groundprune.families.tiny_parts import IMAGE, VOCABULARY

IMAGES, SIDE, LAYERS, LAYER, QUARTER = 5, 24, 8, 2, 0.25
KEEP = (LAYER + (LAYERS - LAYER) * QUARTER) / LAYERS
REPETITIONS = 5


def llava() -> Any:
    """Of the real config class; the tower is small, for it does not count."""
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4, image_size=4 * SIDE,
        patch_size=4,
    )  # fmt: skip
    text = LlamaConfig(
        hidden_size=512, intermediate_size=1376, num_hidden_layers=LAYERS, num_attention_heads=8,
        num_key_value_heads=8, vocab_size=VOCABULARY, max_position_embeddings=4096,
    )  # fmt: skip
    return tiny_of(
        LlavaConfig(vision_config=vision, text_config=text, image_token_index=IMAGE, image_seq_length=SIDE**2)
    )


@torch.inference_mode()
def main(path: Path) -> None:
    """Measure the three variants in turns."""
    torch.set_num_threads(1)
    model, pruner = llava(), gp.FastV(keep=KEEP, layer=LAYER)
    inputs = tiny_inputs(model, [(IMAGES, 4, 20)])
    with gp.prune(model, pruner) as run:
        model(**inputs, logits_to_keep=1)
    encoded = gp.encode(model, inputs, [pruner])
    words = {name: inputs[name] for name in ("input_ids", "attention_mask")}

    def prefill(pruned: bool, attention: str) -> float:
        model.set_attn_implementation(attention)
        given = {**words, "mm_encoder_outputs": encoded.select([0]), "logits_to_keep": 1}
        if attention == "eager":
            given["output_attentions"] = True
        if not pruned:
            return processor_seconds(lambda: model(**given))
        with gp.prune(model, pruner):
            return processor_seconds(lambda: model(**given))

    variants = {"unpruned": (False, "sdpa"), "fastv": (True, "sdpa"), "fastv, eager": (True, "eager")}
    taken: dict[str, list[float]] = {name: [] for name in variants}
    for repetition in range(REPETITIONS + 1):
        for name, variant in variants.items():
            each = prefill(*variant)
            if repetition:  # the first one warms up
                taken[name].append(round(each, 4))
        print(repetition, {name: times[-1:] for name, times in taken.items()}, flush=True)
    medians = {name: statistics.median(times) for name, times in taken.items()}
    found = {
        "tokens": len(run.layout[0]), "left": [(layer, len(kept[0])) for layer, kept in run.stages],
        "keep": KEEP, "layers": LAYERS, "seconds": taken, "median": medians,
        "unpruned / fastv": round(medians["unpruned"] / medians["fastv"], 3),
        "fastv, eager / fastv": round(medians["fastv, eager"] / medians["fastv"], 3),
    }  # fmt: skip
    print(found["unpruned / fastv"], found["fastv, eager / fastv"], found["left"])
    store(path, found)
