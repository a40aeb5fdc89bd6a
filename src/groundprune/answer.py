"""One image and one request: from a picture and words to the model's answer and its box in pixels."""

from __future__ import annotations

import contextlib
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from groundprune.boxes import Box, BoxCodec, Frame, make_frame
from groundprune.checkpoints.load import grounding_of
from groundprune.checkpoints.prompts import box_codec, model_inputs, prompt_for
from groundprune.errors import GroundPruneError
from groundprune.families.base import family_of
from groundprune.pruners.base import Pruner
from groundprune.pruning.context import prune
from groundprune.signals import TextEmbedder
from groundprune.tokens.positions import Policy

MAX_NEW_TOKENS = 64  # where the checkpoint has no limit of its own; LLaVA spends 30 on a box


@dataclass(frozen=True, eq=False)
class Answer:
    """What the model said about one image.

    box: in pixels of the original image; None for a question, and where the text gives no box inside of the image.
    kept: Bool[rows, cols], which visual tokens stayed; None where nothing pruned, or where the model sees the image
    as more than one grid. kept_tokens, total_tokens: counts of visual tokens.
    """

    text: str
    box: Box | None
    kept: np.ndarray | None
    kept_tokens: int
    total_tokens: int
    frame: Frame


def answer(
    model: Any,
    processor: Any,
    image: Image.Image,
    text: str,
    kind: str = "rec",
    pruner: Pruner | None = None,
    positions: str | Policy = "preserved",
    text_tower: str | Path | TextEmbedder | None = None,
) -> Answer:
    """Ask for a box (kind "rec": text is a referring expression) or for words (kind "vqa": text is a question).

    model, processor: what `gp.load` gives. pruner None: the model as it is. Decoding is greedy. Words that the
    tokenizer does not know are named in a UserWarning.

    Raises GroundPruneError for an empty text, one that holds the model's image token or is longer than the model
    reads, an unknown kind, and whatever `gp.prune` and `grounding_of` refuse.
    """
    grounding = grounding_of(model)
    codec, frame = box_codec(processor, grounding, *image.size), make_frame(grounding.frame, *image.size)
    prompt = prompt_for(processor, grounding, kind, text)
    _warn_of_unknown_words(processor.tokenizer, text)
    inputs = model_inputs(processor, grounding, [image], [prompt]).to(model.device, model.dtype)
    _refuse_too_long(model, inputs["input_ids"].shape[1])
    placeholders = family_of(model.config).token_ids(model.config).values()
    total = int(torch.isin(inputs["input_ids"], torch.tensor(list(placeholders), device=model.device)).sum())
    pruning = contextlib.nullcontext() if pruner is None else prune(model, pruner, positions, [text], text_tower)
    limit = model.generation_config.max_new_tokens or MAX_NEW_TOKENS
    with pruning as run:
        output = model.generate(**inputs, max_new_tokens=limit, do_sample=False, num_beams=1)
    said = processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()
    kept = None if run is None else run.kept[0].cpu()
    mask = None if run is None or kept is None else run.layout[0].to("cpu").mask(kept)
    return Answer(
        text=said,
        box=_box(codec, frame, said) if kind == "rec" else None,
        kept=None if mask is None else mask.numpy(),
        kept_tokens=total if kept is None else len(kept),
        total_tokens=total,
        frame=frame,
    )


def _refuse_too_long(model: Any, length: int) -> None:
    most = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if most is not None and length >= most:
        raise GroundPruneError(f"the prompt has {length} tokens, the image's included; this model reads {most}")


def _warn_of_unknown_words(tokenizer: Any, text: str) -> None:
    unknown_id = tokenizer.unk_token_id
    words = [word.strip(".,;:!?\"'") for word in text.split()]
    strange = [w for w in words if unknown_id in tokenizer(w, add_special_tokens=False)["input_ids"]]
    if strange:
        warnings.warn(f"the model does not know: {', '.join(dict.fromkeys(strange))}", stacklevel=3)


def _box(codec: BoxCodec, frame: Frame, said: str) -> Box | None:
    unit = codec.decode(said)
    box = None if unit is None else frame.to_pixels(unit)
    # A box in the padding loses its area when it is clipped to the image.
    return box if box is not None and box.area > 0 else None
