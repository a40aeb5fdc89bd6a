"""Images and requests: what a model reads, and from its words to an answer with a box in pixels."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Sequence
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
from groundprune.families.grounding import Grounding
from groundprune.pruners.base import Pruner
from groundprune.pruning.context import prune
from groundprune.pruning.encode_once import EncodedImages, without_pixels
from groundprune.signals import TextEmbedder
from groundprune.tokens.compaction import Policy
from groundprune.tokens.layout import VisualLayout

MAX_NEW_TOKENS = 64  # where the checkpoint has no limit of its own; LLaVA spends 30 on a box


@dataclass(frozen=True, eq=False)
class Answer:
    """What the model said about one image.

    Attributes:
        text: the answer, without special tokens.
        box: in pixels of the original image; None for a question, and where the text gives no box inside of the
            image.
        kept: Bool[rows, cols], which visual tokens stayed; None where nothing pruned, or where the model sees the
            image as more than one grid.
        kept_tokens: how many visual tokens stayed to the end.
        total_tokens: how many there were.
        frame: from the checkpoint's unit coordinates to pixels.
        layout: where the visual tokens lie, on the CPU; None where nothing pruned.
        chosen: Long[K], which of them stayed, indices into the layout; None where nothing pruned.
    """

    text: str
    box: Box | None
    kept: np.ndarray | None
    kept_tokens: int
    total_tokens: int
    frame: Frame
    layout: VisualLayout | None = None
    chosen: torch.Tensor | None = None


def answer(
    model: Any,
    processor: Any,
    image: Image.Image,
    text: str,
    kind: str = "rec",
    pruner: Pruner | None = None,
    positions: str | Policy = "preserved",
    text_tower: str | Path | TextEmbedder | None = None,
    encoded: EncodedImages | None = None,
) -> Answer:
    """Ask for a box, or for words, by greedy decoding.

    Words that the tokenizer does not know are named in a UserWarning.

    Args:
        model: what `gp.load` gives.
        processor: likewise.
        image: any image of Pillow's.
        text: a referring expression or a question, without a prompt around it.
        kind: "rec", a referring expression, or "vqa", a question.
        pruner: what stays of the image; None = the model as it is.
        positions: see `gp.prune`.
        text_tower: see `gp.prune`.
        encoded: the image as `gp.encode` gave it, of one prompt and for this pruner; then the tower does not run.

    Returns:
        Answer, with the model's words and, for "rec", the box that they name.

    Raises:
        GroundPruneError: an unknown kind; a text that is empty, holds the model's image token or is longer than the
            model reads; a `grounding.json` that cannot be read.
        Unservable: the model cannot give what the pruner needs.
    """
    grounding = grounding_of(model)
    codec, frame = box_codec(processor, grounding, *image.size), make_frame(grounding.frame, *image.size)
    inputs = _inputs(model, processor, grounding, [image], [text], kind)
    _warn_of_unknown_words(processor.tokenizer, text)
    _refuse_too_long(model, inputs["input_ids"].shape[1])
    placeholders = family_of(model.config).token_ids(model.config).values()
    total = int(torch.isin(inputs["input_ids"], torch.tensor(list(placeholders), device=model.device)).sum())
    if encoded is not None:
        inputs = {**without_pixels(inputs), "mm_encoder_outputs": encoded.select([0])}
    pruning = contextlib.nullcontext() if pruner is None else prune(model, pruner, positions, [text], text_tower)
    limit = model.generation_config.max_new_tokens or MAX_NEW_TOKENS
    with pruning as run:
        output = model.generate(**inputs, max_new_tokens=limit, do_sample=False, num_beams=1)
    said = processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()
    kept = None if run is None else run.kept[0].cpu()
    layout = None if run is None else run.layout[0].to("cpu")
    mask = None if layout is None or kept is None else layout.mask(kept)
    return Answer(
        text=said,
        box=_box(codec, frame, said) if kind == "rec" else None,
        kept=None if mask is None else mask.numpy(),
        kept_tokens=total if kept is None else len(kept),
        total_tokens=total,
        frame=frame,
        layout=layout,
        chosen=kept,
    )


def inputs_for(
    model: Any,
    processor: Any,
    image: Image.Image | Sequence[Image.Image],
    text: str | Sequence[str],
    kind: str = "rec",
) -> Any:
    """What a model reads of requests, one image each: in the checkpoint's own wording and preprocessing.

    A conversation, or a prompt of several images, is made by the processor alone.

    Args:
        model: what `gp.load` gives.
        processor: likewise.
        image: any image of Pillow's; of a batch, a list.
        text: a referring expression or a question, without a prompt around it; of a batch, a list.
        kind: "rec", referring expressions, or "vqa", questions.

    Returns:
        The processor's BatchFeature, on the model's device and in its dtype: input_ids Long[B, L] and attention_mask
            Long[B, L], padded on the left, pixel_values, and what else the model reads.

    Raises:
        GroundPruneError: an unknown kind, other numbers of images than of texts, or a text that is empty or holds the
            model's image token.
    """
    images = [image] if isinstance(image, Image.Image) else list(image)
    texts = [text] if isinstance(text, str) else list(text)
    if len(images) != len(texts):
        raise GroundPruneError(f"one image to a text: {len(images)} images and {len(texts)} texts given")
    return _inputs(model, processor, grounding_of(model), images, texts, kind)


def _inputs(
    model: Any, processor: Any, grounding: Grounding, images: Sequence[Image.Image], texts: Sequence[str], kind: str
) -> Any:
    prompts = [prompt_for(processor, grounding, kind, text) for text in texts]
    return model_inputs(processor, grounding, images, prompts).to(model.device, model.dtype)


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
