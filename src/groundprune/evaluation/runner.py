"""Encode every image once, then answer every question once per setting, in fixed batches."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from groundprune.asking import box_codec, model_inputs, prompt_for
from groundprune.boxes import Box
from groundprune.data.samples import Sample
from groundprune.errors import GroundPruneError
from groundprune.evaluation.scoring import Scorer
from groundprune.evaluation.settings import Setting
from groundprune.families.base import family_of
from groundprune.loading import grounding_of
from groundprune.pruning import EncodedImages, Run, encode, prune
from groundprune.signals import TextEmbedder

ENCODE_BATCH = 32
VQA_TOKENS = 16  # new tokens, as GQA is evaluated
BOX_MARGIN = 4  # new tokens beyond those of a box: the end of the answer, and a blank or two before the box
_ANY_BOX = Box(0.12, 0.34, 0.56, 0.78)


@dataclass(frozen=True, eq=False)
class Prepared:
    """The samples as the model reads them. ids: per sample Long[L], image placeholders expanded, no padding.

    visual: per sample its number of visual tokens. encoded: one entry per sample.
    """

    ids: list[Tensor]
    visual: list[int]
    encoded: EncodedImages


class Runner:
    """Runs one model over the same samples under many settings.

    samples: one image each; held in memory, encoded, for the whole comparison. text_tower: see `gp.prune`.
    Raises GroundPruneError for repeated sample ids or a batch size below 1.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        samples: Sequence[Sample],
        batch_size: int = 64,
        text_tower: str | Path | TextEmbedder | None = None,
    ):
        if batch_size < 1:
            raise GroundPruneError(f"batch size must be a whole number of at least 1 (got {batch_size})")
        if len({s.id for s in samples}) != len(samples):
            raise GroundPruneError("two samples share an id")
        self.model, self.processor, self.samples = model, processor, samples
        self.batch_size = batch_size
        self.grounding = grounding_of(model)
        self._scorer = Scorer(self.grounding, processor)
        self._tower = text_tower
        self._prepared: Prepared | None = None

    def check(self, settings: Iterable[Setting]) -> None:
        """Raises GroundPruneError (Unservable) for the first setting that this model cannot run; runs nothing."""
        for setting in settings:
            with self._context(setting, [""]):
                pass

    def prepare(self, settings: Iterable[Setting], advance: Callable[[int], None] = lambda images: None) -> None:
        """Tokenize and encode every sample, recording what the settings' pruners score by.

        advance: called with the number of samples after each batch.
        """
        pruners = [setting.make_pruner() for setting in settings]
        ids: list[Tensor] = []
        parts: list[EncodedImages] = []
        for start in range(0, len(self.samples), ENCODE_BATCH):
            chunk = self.samples[start : start + ENCODE_BATCH]
            prompts = [prompt_for(self.processor, self.grounding, s.kind, s.text) for s in chunk]
            images = [s.image for s in chunk]
            inputs = model_inputs(self.processor, self.grounding, images, prompts).to(self.model.device)
            parts.append(encode(self.model, inputs, pruners))
            rows = zip(inputs["input_ids"], inputs["attention_mask"].bool(), strict=True)
            ids += [row[valid].cpu() for row, valid in rows]
            advance(len(chunk))
        placeholders = torch.tensor(list(family_of(self.model.config).token_ids(self.model.config).values()))
        visual = [int(torch.isin(row, placeholders).sum()) for row in ids]
        self._prepared = Prepared(ids, visual, EncodedImages.join(parts))

    def run(self, setting: Setting, done: Collection[str] = ()) -> Iterator[list[dict[str, Any]]]:
        """Yields the result rows of one batch after another (see `groundprune.evaluation.results`).

        done: ids of samples that need no answer. A batch with a sample that does runs whole, so that a resumed run
        computes exactly what an uninterrupted one would have.
        """
        for batch in self.batches():
            missing = {i for i in batch if self.samples[i].id not in done}
            if missing:
                answered = zip(batch, *self._answer(setting, batch), strict=True)
                yield [self._row(setting, i, text, kept) for i, text, kept in answered if i in missing]

    def batches(self) -> list[list[int]]:
        """Sample indices of one kind and of similar length; a function of the samples and the batch size alone."""
        ids = self._ready.ids
        found: list[list[int]] = []
        for kind in ("rec", "vqa"):
            of_kind = [i for i, s in enumerate(self.samples) if s.kind == kind]
            by_length = sorted(of_kind, key=lambda i: len(ids[i]))
            found += [by_length[i : i + self.batch_size] for i in range(0, len(by_length), self.batch_size)]
        return found

    def max_new_tokens(self, kind: str) -> int:
        if kind == "vqa":
            return VQA_TOKENS
        samples = [s for s in self.samples if s.kind == kind]
        codecs = {box_codec(self.processor, self.grounding, *s.image.size) for s in samples}
        said = [codec.encode(_ANY_BOX) for codec in codecs]
        named = {s.text for s in samples} if any(getattr(codec, "names_object", False) for codec in codecs) else set()
        return self._longest(said) + self._longest(named) + BOX_MARGIN

    def _longest(self, texts: Iterable[str]) -> int:
        tokenizer = self.processor.tokenizer
        return max((len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts), default=0)

    @property
    def _ready(self) -> Prepared:
        if self._prepared is None:
            raise GroundPruneError("call prepare() before run(): the images are not encoded yet")
        return self._prepared

    @torch.inference_mode()
    def _answer(self, setting: Setting, batch: list[int]) -> tuple[list[str], list[int]]:
        """The texts of a batch, and per sample how many visual tokens the LLM read."""
        prepared, tokenizer = self._ready, self.processor.tokenizer
        rows = [prepared.ids[i] for i in batch]
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        ids = pad_sequence(rows, batch_first=True, padding_value=pad, padding_side="left")
        mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True, padding_side="left")
        with self._context(setting, [self.samples[i].text for i in batch]) as run:
            output = self.model.generate(
                input_ids=ids.to(self.model.device),
                attention_mask=mask.to(self.model.device),
                mm_encoder_outputs=prepared.encoded.select(batch),
                max_new_tokens=self.max_new_tokens(self.samples[batch[0]].kind),
                do_sample=False,
                num_beams=1,
            )
            kept = [prepared.visual[i] for i in batch] if run is None else [len(k) for k in run.kept]
        texts = tokenizer.batch_decode(output[:, ids.shape[1] :], skip_special_tokens=True)
        return [text.strip() for text in texts], kept

    def _context(self, setting: Setting, text: list[str]) -> contextlib.AbstractContextManager[Run | None]:
        if setting.plain:
            return contextlib.nullcontext()
        pruner = setting.make_pruner()
        return prune(self.model, pruner, setting.policy(pruner), text, self._tower)

    def _row(self, setting: Setting, index: int, answer: str, kept: int) -> dict[str, Any]:
        sample = self.samples[index]
        about = {"setting": setting.id, "sample": sample.id, "kind": sample.kind, "type": sample.type}
        return {**about, "answer": answer, **self._scorer.score(sample, answer), "kept": kept}
