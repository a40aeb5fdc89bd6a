"""MiniGPT-v2: Llama-2-chat with the published LoRA merged, and the EVA ViT-g that LAVIS published."""

from __future__ import annotations

import math
import re
from functools import partial
from numbers import Real
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import InstructBlipVisionConfig

from groundprune.errors import GroundPruneError
from groundprune.models.convert.eva import eva_name, eva_parts
from groundprune.models.convert.llama import GROWN, is_rotary_table, llama_base, llama_name
from groundprune.models.convert.result import Conversion, Part, Progress, Result
from groundprune.models.convert.weights import ODD, Weights, load_torch, refusing
from groundprune.models.minigpt_v2 import (
    CHAT_TEMPLATE,
    EXTRA_TOKENS,
    GENERATION,
    PATCHES_PER_TOKEN,
    MiniGPTv2Config,
    MiniGPTv2ForConditionalGeneration,
    MiniGPTv2Processor,
)
from groundprune.models.tokenization import clip_images

DEFAULT_ALPHA = 16
# peft 0.2, with which MiniGPT-v2 was saved, does not name the adapter; newer ones do (".default").
_LORA = re.compile(
    r"llama_model\.base_model\.model\.(?P<module>model\.layers\.[0-9]+\..+)\.lora_(?P<side>[AB])(?:\.default)?\.weight"
)


@refusing("the files do not make a MiniGPT-v2", ODD)
def convert_minigpt_v2(
    checkpoint: str | Path,
    eva: str | Path,
    llama: str | Path,
    target: str | Path,
    lora_alpha: float | None = None,
    image_size: int = 448,
    tower_depth: int = 39,
    tower_heads: int = 16,
    progress: Progress = lambda done, of: None,
) -> Conversion:
    """Write `target`, a folder that `groundprune.load` opens.

    checkpoint: the authors' .pth (LoRA and projector). eva: eva_vit_g.pth. llama: folder of Llama-2-7b-chat-hf with
    tokenizer.json. lora_alpha: None = what the checkpoint's config says, else 16. The three last sizes are in no
    file; the defaults are the released model's (the file of the tower holds one block more than the model uses).

    Merged weights, projector and position embeddings are fp32 in the files, the rest fp16: as precise as what the
    authors run. `load` on a GPU rounds all to fp16.

    Raises GroundPruneError for files that are missing, damaged or do not belong together; then there is no `target`.
    See `Result.write` for interrupted calls and memory.
    """
    trained, towers, bases = Weights(checkpoint, "model"), Weights(eva), Weights(llama)
    tokenizer, text = llama_base(Path(llama), Path(llama), EXTRA_TOKENS)
    width, patch = towers.shape("cls_token")[-1], towers.shape("patch_embed.proj.weight")[-1]
    rows = image_size // patch
    if image_size < 1 or image_size % (PATCHES_PER_TOKEN * patch):
        raise GroundPruneError(f"image_size={image_size}: must be a multiple of {PATCHES_PER_TOKEN * patch} pixels")
    if tower_heads < 1 or width % tower_heads:
        raise GroundPruneError(f"tower_heads={tower_heads}: must divide the tower's width of {width}")
    vision = InstructBlipVisionConfig(
        hidden_size=width, intermediate_size=towers.shape("blocks.0.mlp.fc1.weight")[0],
        num_hidden_layers=tower_depth, num_attention_heads=tower_heads, image_size=image_size, patch_size=patch,
    )  # fmt: skip
    tokens = rows**2 // PATCHES_PER_TOKEN
    config = MiniGPTv2Config(
        vision_config=vision.to_dict(), text_config=text.to_dict(), image_seq_length=tokens,
        image_token_index=tokenizer.convert_tokens_to_ids(EXTRA_TOKENS[0]),
    )  # fmt: skip
    alpha = _alpha(Path(checkpoint), lora_alpha)
    lora = _lora(trained, bases)
    rank = trained.shape(next(iter(lora.values()))[0])[0]
    llm, tower = _llm(trained, bases, lora, alpha), eva_parts(towers, tower_depth, rows)
    result = Result(
        model_class=MiniGPTv2ForConditionalGeneration,
        config=config,
        processor=MiniGPTv2Processor(clip_images(image_size), tokenizer, tokens, chat_template=CHAT_TEMPLATE),
        generation={**GENERATION, "suppress_tokens": [config.image_token_index]},
        parts={**llm, **tower, **_projector(trained, width)},
        sources=(trained, towers, bases),
        settings={"lora_alpha": alpha, "image_size": image_size, "depth": tower_depth, "heads": tower_heads},
    )
    folder = result.write(target, progress)
    used = sum(eva_name(name, tower_depth) is not None for name in towers)
    blocks = len({name.split(".")[1] for name in towers if name.startswith("blocks.")})
    norm = "taken from the checkpoint" if "ln_vision.weight" in trained else "1 and 0, as no file holds it"
    return Conversion(
        folder,
        [
            f"LLM    {len(llm)} tensors, LoRA merged into {len(lora)} (rank {rank}, scale {alpha / rank:g})",
            f"tower  {tower_depth} of {blocks} blocks, {used} of {len(towers.entries)} tensors",
            f"joint  llama_proj; ln_vision {norm}",
            f"tokens {EXTRA_TOKENS[0]} is {config.image_token_index}; {tokens} per image",
        ],
    )


def _alpha(checkpoint: Path, given: float | None) -> float:
    """What was given, or the run's own setting, where its author's config was saved with it; it scales the LoRA."""
    run = load_torch(checkpoint).get("config")
    model = run.get("model") if isinstance(run, dict) else None
    own: Any = model.get("lora_alpha") if isinstance(model, dict) else None
    alpha: Any = next((value for value in (given, own) if value is not None), DEFAULT_ALPHA)
    if isinstance(alpha, bool) or not isinstance(alpha, Real) or not 0 < float(alpha) < math.inf:
        raise GroundPruneError(f"lora_alpha must be a number above 0 (got {alpha!r})")
    return float(alpha)


def _lora(trained: Weights, bases: Weights) -> dict[str, tuple[str, str]]:
    """{weight of the base: names of its A and B}. Every key of the checkpoint must be known."""
    sides: dict[str, dict[str, str]] = {}
    for name in trained:
        match = _LORA.fullmatch(name)
        if match:
            sides.setdefault(f"{match['module']}.weight", {})[match["side"]] = name
        elif not is_rotary_table(name) and not name.startswith(("llama_proj.", "ln_vision.")):
            raise GroundPruneError(f"{trained.path}: unknown weights (the first: {name})")
    if not sides:
        raise GroundPruneError(f"{trained.path}: no LoRA weights there; without them the model talks nonsense")
    for weight, found in sides.items():
        if set(found) != {"A", "B"}:
            raise GroundPruneError(f"{trained.path}: half of the LoRA of {weight} is missing")
        (rank, inner), (outer, same_rank) = trained.shape(found["A"]), trained.shape(found["B"])
        if rank != same_rank:
            raise GroundPruneError(f"{trained.path}: the LoRA of {weight} has ranks {rank} and {same_rank}")
        shape = (outer, inner)
        if bases.shape(weight) != shape:
            raise GroundPruneError(
                f"{weight} has shape {bases.shape(weight)} in {bases.path}, its LoRA is for {shape}: another base"
            )
        same_kind = weight.split(".", 3)[3]  # model.layers.0.REST
        for base in bases:
            if base.endswith(same_kind) and base not in sides:
                raise GroundPruneError(f"{trained.path}: has LoRA for {weight} but none for {base}")
    return {weight: (found["A"], found["B"]) for weight, found in sides.items()}


def _llm(trained: Weights, bases: Weights, lora: dict[str, tuple[str, str]], alpha: float) -> dict[str, Part]:
    parts: dict[str, Part] = {}
    for name in bases:
        shape = bases.shape(name)
        if is_rotary_table(name):
            continue
        if name in lora:
            part = Part(shape, torch.float32, partial(_merged, trained, bases, name, lora[name], alpha))
        elif name in GROWN:
            part = Part((shape[0] + len(EXTRA_TOKENS), *shape[1:]), torch.float16, partial(_grown, bases, name))
        else:
            part = Part(shape, torch.float16, partial(bases.read, name))
        parts[llama_name(name)] = part
    return parts


def _merged(trained: Weights, bases: Weights, name: str, lora: tuple[str, str], alpha: float) -> Tensor:
    a, b = (trained.read(side).float() for side in lora)
    # Through fp16, in which the authors load the base whatever its files hold.
    return bases.read(name).half().float() + alpha / len(a) * (b @ a)


def _grown(bases: Weights, name: str) -> Tensor:
    """Zero rows for the image token: its embedding is always replaced, and `generate` suppresses it."""
    known = bases.read(name)
    return torch.cat([known, known.new_zeros(len(EXTRA_TOKENS), known.shape[1])])


def _projector(trained: Weights, width: int) -> dict[str, Part]:
    parts = {}
    for kind, filling in (("weight", torch.ones), ("bias", torch.zeros)):
        linear, norm = f"llama_proj.{kind}", f"ln_vision.{kind}"
        shape = trained.shape(linear)
        new = "model.multi_modal_projector"
        parts[f"{new}.linear.{kind}"] = Part(shape, torch.float32, partial(trained.read, linear))
        make = partial(trained.read, norm) if norm in trained else partial(filling, width)
        parts[f"{new}.norm.{kind}"] = Part((width,), torch.float32, make)
    return parts
