"""Shikra: LLaMA-7B plus the published difference, and CLIP's vision tower."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import CLIPVisionConfig

from groundprune.errors import GroundPruneError
from groundprune.models.convert.llama import GROWN, is_rotary_table, llama_base, llama_name
from groundprune.models.convert.result import Conversion, Part, Progress, Result
from groundprune.models.convert.weights import ODD, Weights, check_numbers, read_json, refusing
from groundprune.models.shikra import (
    CHAT_TEMPLATE,
    EXTRA_TOKENS,
    GENERATION,
    ShikraConfig,
    ShikraForConditionalGeneration,
    ShikraProcessor,
)
from groundprune.models.tokenization import clip_images

_PROJECTOR = "model.mm_projector."
_UNUSED_CLIP = ("text_model.", "text_projection.", "visual_projection.", "logit_scale")


@refusing("the files do not make a Shikra", ODD)
def convert_shikra(
    delta: str | Path,
    base: str | Path,
    clip: str | Path,
    target: str | Path,
    progress: Progress = lambda done, of: None,
) -> Conversion:
    """Write `target`, a folder that `groundprune.load` opens; tensors are fp16, as the authors add them.

    delta: folder of shikras/shikra-7b-delta-v1. base: folder of LLaMA-7B (version 1, not Vicuna) in Hugging Face's
    layout, with tokenizer.json. clip: folder of openai/clip-vit-large-patch14.

    Raises GroundPruneError for files that are missing, damaged or do not belong together; then there is no `target`.
    See `Result.write` for interrupted calls and memory.
    """
    delta, base, clip = Path(delta), Path(base), Path(clip)
    deltas, bases, towers = Weights(delta), Weights(base), Weights(clip)
    tokenizer, text = llama_base(base, delta, EXTRA_TOKENS)
    _check_extra_tokens(delta, tokenizer)
    vision = _vision(clip)
    tokens = (vision.image_size // vision.patch_size) ** 2
    layer = _layer(delta, vision.num_hidden_layers)
    config = ShikraConfig(
        vision_config=vision.to_dict(), text_config=text.to_dict(), vision_feature_layer=layer,
        image_seq_length=tokens, image_token_index=tokenizer.convert_tokens_to_ids(EXTRA_TOKENS[0]),
    )  # fmt: skip
    llm, tower = _llm(deltas, bases), _tower(towers)
    result = Result(
        model_class=ShikraForConditionalGeneration,
        config=config,
        processor=ShikraProcessor(clip_images(vision.image_size), tokenizer, tokens, chat_template=CHAT_TEMPLATE),
        generation=GENERATION,
        parts={**llm, **tower},
        sources=(deltas, bases, towers),
        settings={},
    )
    folder = result.write(target, progress)
    rotary = sum(map(is_rotary_table, deltas))
    whole = sum(name.startswith(_PROJECTOR) for name in deltas)
    return Conversion(
        folder,
        [
            f"delta  {len(llm) - whole} tensors added to the base, {whole} of the projector taken as they are, "
            f"{rotary} rotary tables left out",
            f"tower  {len(tower)} tensors of CLIP, {len(towers.entries) - len(tower)} left out",
            f"tokens {', '.join(EXTRA_TOKENS)} from {config.image_token_index} on; {tokens} per image",
        ],
    )


def _vision(clip: Path) -> Any:
    given = read_json(clip / "config.json")
    given = given.get("vision_config", given)
    counts = (
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "image_size",
        "patch_size",
    )
    check_numbers(clip / "config.json", given, counts, ("layer_norm_eps",))
    with refusing(f"{clip}: no CLIP config there"):
        vision: Any = CLIPVisionConfig.from_pretrained(clip, local_files_only=True)
    if vision.patch_size > vision.image_size:
        sizes = f"patch_size {vision.patch_size}, image_size {vision.image_size}"
        raise GroundPruneError(f"{clip / 'config.json'}: an image holds no patch ({sizes})")
    return vision


def _layer(delta: Path, depth: int) -> int:
    """Whose output the projector reads: a block of the tower, counted from 1, or from the last by -1."""
    layer = read_json(delta / "config.json").get("mm_vision_select_layer", -2)
    if not isinstance(layer, int) or isinstance(layer, bool) or not 1 <= abs(layer) <= depth:
        raise GroundPruneError(
            f"{delta / 'config.json'}: mm_vision_select_layer must be one of the tower's {depth} blocks, "
            f"1 to {depth} or -{depth} to -1 (got {layer!r})"
        )
    return layer


def _llm(deltas: Weights, bases: Weights) -> dict[str, Part]:
    parts: dict[str, Part] = {}
    for name in deltas:
        shape = deltas.shape(name)
        if is_rotary_table(name):
            continue
        if name.startswith(_PROJECTOR):
            new = name.replace(_PROJECTOR, "model.multi_modal_projector.")
            parts[new] = Part(shape, torch.float16, partial(deltas.read, name))
            continue
        if name not in bases:
            raise GroundPruneError(f"{bases.path} lacks {name}, which the delta changes: not LLaMA in this layout")
        needed = (shape[0] - len(EXTRA_TOKENS), *shape[1:]) if name in GROWN else shape
        if bases.shape(name) != needed:
            raise GroundPruneError(
                f"{name} has shape {bases.shape(name)} in {bases.path}, the delta needs {needed}: "
                "the base must be LLaMA-7B, version 1"
            )
        parts[llama_name(name)] = Part(shape, torch.float16, partial(_sum, deltas, bases, name))
    unchanged = sorted(name for name in bases if name not in deltas and not is_rotary_table(name))
    if unchanged:
        raise GroundPruneError(f"{bases.path} holds {unchanged[0]}, which the delta at {deltas.path} does not know")
    return parts


def _sum(deltas: Weights, bases: Weights, name: str) -> Tensor:
    """Rounded to fp16 before and after, as the authors' script does: bit-identical to it."""
    total = deltas.read(name).to(torch.float16, copy=True)
    known = bases.read(name).to(torch.float16)
    total[: len(known)] += known
    return total


def _tower(towers: Weights) -> dict[str, Part]:
    """The names of the result's tower, which has no `vision_model.` in front."""
    parts: dict[str, Part] = {}
    for name in towers:
        if not name.startswith(_UNUSED_CLIP) and not name.endswith(".position_ids"):
            new = f"model.vision_tower.{name.removeprefix('vision_model.')}"
            parts[new] = Part(towers.shape(name), torch.float16, partial(towers.read, name))
    return parts


def _check_extra_tokens(delta: Path, tokenizer: Any) -> None:
    file = delta / "added_tokens.json"
    if not file.is_file():
        return
    ours = {token: tokenizer.convert_tokens_to_ids(token) for token in EXTRA_TOKENS}
    theirs = {token: number for token, number in read_json(file).items() if token in ours}
    if theirs != ours:
        raise GroundPruneError(f"{file} says {theirs}, after the base's vocabulary it would be {ours}: another base")
