"""A worker on stock transformers: variants are "plain" or a method and how many tokens its stages leave."""

import functools
from dataclasses import dataclass
from typing import Any

import loop
import torch
import transformers
from shapes import ATTENTION, DEVICE, IMAGE, LLM, PIXELS, TOWER, WEIGHTS, N, prompts
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

import groundprune as gp
from groundprune.pruners import Pruner, Stage, make_pruner
from groundprune.tokens.budget import Budget


@dataclass(frozen=True)
class Sparse(gp.SparseVLM):
    """SparseVLM at the layers and counts of its authors, which they do not scale to a model's depth or image."""

    counts: str = ""

    def stages(self, n_layers: int) -> list[Stage]:
        pairs = zip((3, 7), self.counts.split("/"), strict=True)
        return [Stage(layer, Budget(tokens=int(n)), number=i) for i, (layer, n) in enumerate(pairs)]


def model_of():
    """The stock class, with the weights that all workers share."""
    vision, text = CLIPVisionConfig(**TOWER), LlamaConfig(**LLM)
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=IMAGE, vision_feature_layer=-2, image_seq_length=N,
        attn_implementation=ATTENTION,
    )  # fmt: skip
    model = LlavaForConditionalGeneration(config).eval()
    have, weights = model.state_dict(), {}
    for name, value in torch.load(WEIGHTS).items():
        if "position_ids" in name or "inv_freq" in name:
            continue
        _, tower, tail = name.partition("vision_tower.vision_tower.vision_model.")
        if tower:
            names = (f"model.vision_tower.{middle}{tail}" for middle in ("vision_model.", ""))
            name = next(n for n in names if n in have)
        elif name.startswith("model.mm_projector."):
            name = name.replace("mm_projector.0", "multi_modal_projector.linear_1")
            name = name.replace("mm_projector.2", "multi_modal_projector.linear_2")
        elif name.startswith("model."):
            name = name.replace("model.", "model.language_model.", 1)
        weights[name] = value
    found = model.load_state_dict(weights, strict=False)
    odd = [name for name in found.missing_keys + found.unexpected_keys if "position_ids" not in name]
    assert not odd, odd
    return model.to(DEVICE)


@functools.cache
def pruner_of(variant: str) -> Pruner:
    """Of "NAME keep=1/4", "NAME tokens=144" or "sparsevlm VERSION COUNT/COUNT"."""
    name, *rest = variant.split()
    if name == "sparsevlm":
        return Sparse(keep=0.5, version=rest[0], counts=rest[1])
    options: dict[str, Any] = dict(option.split("=") for option in rest)
    if "layer" in options:
        options["layer"] = int(options["layer"])
    return make_pruner(name, **options)


model = model_of()


def call(variant, rows):
    """Logits of the last token of each prompt, with the ids that the authors' code gives."""
    ids = prompts(rows, [IMAGE] * N)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": PIXELS[rows]}
    if variant == "plain":
        return run(inputs)
    pruner = pruner_of(variant)
    if not pruner.inside:
        return run(gp.prune_inputs(model, inputs, pruner, "official"))
    with gp.prune(model, pruner, "official"):
        return run(inputs)


def run(inputs):
    """One prefill."""
    return model(**inputs, use_cache=True, logits_to_keep=1).logits[:, -1]


loop.serve(call, {"torch": torch.__version__, "transformers": transformers.__version__, "attention": ATTENTION})
