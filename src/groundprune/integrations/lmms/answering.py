"""Conversations in, answers out: in batches, images that are asked about again in a row encoded once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image

from groundprune.checkpoints.load import grounding_of
from groundprune.checkpoints.prompts import conversation_inputs, conversation_prompt
from groundprune.errors import GroundPruneError
from groundprune.evaluation.generating import How, generate
from groundprune.evaluation.memory import halving
from groundprune.families.base import family_of
from groundprune.integrations.lmms.decoding import Decoding
from groundprune.integrations.lmms.messages import Conversation
from groundprune.integrations.lmms.videos import check_videos, video_arguments
from groundprune.pruning.encode_once import EncodedImages, encode, without_pixels


@dataclass(frozen=True, eq=False)
class Asked:
    """A conversation and its prompt. seed: of what is sampled, by the document and how often it was asked."""

    conversation: Conversation
    prompt: str
    decoding: Decoding
    seed: int

    @property
    def group(self) -> tuple[str, str]:
        """Equal where requests may run together."""
        return self.conversation.kind, self.decoding.key

    @property
    def alone(self) -> bool:
        """What is sampled would depend on what is beside it; not every processor takes videos of two lengths."""
        return self.decoding.sampled or bool(self.conversation.videos)


@dataclass(frozen=True)
class Said:
    """new: how many tokens were generated. visual, kept: of the prompt's tokens, those of images before and after."""

    text: str
    new: int
    visual: int
    kept: int


class Answerer:
    """A model that answers under one way of pruning. how: None is the stock model."""

    def __init__(self, model: Any, processor: Any, how: How | None):
        self._model, self._processor, self._how = model, processor, how
        # As lmms-eval's own models: the image goes to the processor as it is, and boxes are shares of it.
        self._grounding = replace(grounding_of(model), frame="original")
        self._encoded: dict[str, EncodedImages] = {}  # of the latest batch, by what `_key` says

    def asked(self, conversation: Conversation, decoding: Decoding, seed: int) -> Asked:
        """Raises GroundPruneError where the checkpoint cannot be asked this."""
        if conversation.videos:
            check_videos(self._model.config)
        marks = [getattr(self._processor, f"{kind}_token", None) for kind in ("image", "video")]
        for mark in filter(None, marks):
            if any(mark in part.get("text", "") for x in conversation.messages for part in x["content"]):
                raise GroundPruneError(f"the text holds {mark!r}, which stands for an image or video in a prompt")
        prompt = conversation_prompt(self._processor, conversation.messages, self._grounding.turn)
        return Asked(conversation, prompt, decoding, seed)

    def answers(self, asked: Iterable[Asked], batch_size: int, advance: Callable[[int], Any]) -> list[Said]:
        """In the order given. Requests of one group run together in that order: neighbours may share an image.

        Nothing of a request is held once it is answered. A batch that does not fit into memory runs in halves.
        advance: called with the number of requests after each batch.
        """
        waiting: dict[tuple[str, str], dict[int, Asked]] = {}
        found: dict[int, Said] = {}

        def run(batch: dict[int, Asked]) -> None:
            found.update(zip(batch, halving(list(batch.values()), self._answers), strict=True))
            advance(len(batch))

        for i, each in enumerate(asked):
            batch = waiting.setdefault(each.group, {})
            batch[i] = each
            if len(batch) == (1 if each.alone else batch_size):
                run(waiting.pop(each.group))
        for batch in waiting.values():
            run(batch)
        return [found[i] for i in sorted(found)]

    @torch.inference_mode()
    def _answers(self, batch: Sequence[Asked]) -> list[Said]:
        kind, decoding = batch[0].conversation.kind, batch[0].decoding
        if decoding.sampled:
            torch.manual_seed(batch[0].seed)
        inputs: dict[str, Any] = self._inputs(batch)
        if kind == "image":
            inputs = {**without_pixels(inputs), "mm_encoder_outputs": self._images(batch, inputs)}
        tokenizer = self._processor.tokenizer
        texts = [each.conversation.text for each in batch]
        how = None if kind == "text" else self._how
        output, pruned = generate(self._model, inputs, how, texts, decoding.arguments(tokenizer))
        texts = tokenizer.batch_decode(output, skip_special_tokens=True)
        new = [_new_tokens(self._model, tokenizer, row) for row in output.tolist()]
        if pruned is None:
            visual = kept = self._visual(inputs["input_ids"])
        else:
            rows = slice(None, None, len(pruned.layout) // len(batch))  # inside of gp.prune each beam has one
            visual, kept = list(map(len, pruned.layout[rows])), list(map(len, pruned.kept[rows]))
        return [Said(decoding.answer(text), *counts) for text, *counts in zip(texts, new, visual, kept, strict=True)]

    def _inputs(self, batch: Sequence[Asked]) -> dict[str, Any]:
        talks = [each.conversation for each in batch]
        images = [talk.images for talk in talks] if talks[0].images else []
        videos = video_arguments(self._processor, [talk.videos for talk in talks]) if talks[0].videos else {}
        prompts = [each.prompt for each in batch]
        found = conversation_inputs(self._processor, self._grounding, prompts, images, **videos)
        return dict(found.to(self._model.device, self._model.dtype))

    def _images(self, batch: Sequence[Asked], inputs: dict[str, Any]) -> dict[str, Any]:
        """`mm_encoder_outputs` of a batch with these inputs."""
        keys = [_key(each.conversation.images) for each in batch]
        new = {key: each for key, each in zip(keys, batch, strict=True) if key not in self._encoded}
        if new:
            # What a prompt says does not change what the tower sees of its image.
            some = inputs if len(new) == len(batch) else self._inputs(list(new.values()))
            pruners = [] if self._how is None else [self._how.pruner]
            images = encode(self._model, some, pruners)
            self._encoded |= {key: images.take([row]) for row, key in enumerate(new)}
        self._encoded = {key: self._encoded[key] for key in keys}
        together = EncodedImages.join([self._encoded[key] for key in keys])
        return together.select(range(len(keys)), self._model.device)

    def _visual(self, ids: torch.Tensor) -> list[int]:
        marks = list(family_of(self._model.config).token_ids(self._model.config).values())
        return torch.isin(ids, torch.tensor(marks, device=ids.device)).sum(1).tolist()


def _key(images: Sequence[Image.Image]) -> str:
    """Equal for equal images, which tasks read from their files anew for each document."""
    digest = hashlib.blake2b(digest_size=16)
    for image in images:
        digest.update(repr((image.mode, image.size)).encode() + image.tobytes())
    return digest.hexdigest()


def _new_tokens(model: Any, tokenizer: Any, row: Sequence[int]) -> int:
    """How many a row has, without the padding of its batch."""
    ends = model.generation_config.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    ended = next((i for i, token in enumerate(row) if token in ends), len(row) - 1)
    return 1 + max((i for i in range(ended + 1) if row[i] != tokenizer.pad_token_id or row[i] in ends), default=-1)
