"""Encode every image once, then answer every question once per setting, in fixed batches."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from groundprune.boxes import Box
from groundprune.boxes.images import ImageError
from groundprune.checkpoints.load import grounding_of
from groundprune.checkpoints.prompts import box_codec, model_inputs, prompt_for
from groundprune.data.samples import Sample
from groundprune.errors import GroundPruneError
from groundprune.evaluation.protocols import PAPER_TOKENS
from groundprune.evaluation.scoring import Scorer
from groundprune.evaluation.specs import Setting
from groundprune.families.base import Grounding, family_of
from groundprune.pruning.context import Run, prune
from groundprune.pruning.encode_once import EncodedImages, encode
from groundprune.signals import TextEmbedder

ENCODE_BATCH = 32
VQA_TOKENS = 16  # new tokens, as GQA is evaluated
BOX_MARGIN = 4  # new tokens beyond those of a box: the end of the answer, and a blank or two before the box
_ANY_BOX = Box(0.12, 0.34, 0.56, 0.78)

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Words:
    """What a sample's prompt is to the model, its image aside.

    columns: by the argument's name, [L] each, without padding: ids, and what some families say of every column.
    image: [1, ...] by name: what some families say of the image beside its pixels. size: of the image, width and
    height. visual: number of visual tokens. entry: of the image among those that are encoded.
    """

    columns: dict[str, Tensor]
    image: dict[str, Tensor]
    size: tuple[int, int]
    visual: int
    entry: int


class Runner:
    """Runs one model over the same samples under many settings.

    samples: one image each; the encoded images are held in memory (not on the GPU) for as long as the runner is, so
    give it a part of a large data set (`groundprune.evaluation.evaluate` does). A sample whose image cannot be read,
    or whose box cannot be in it, is left out of `samples` by `prepare`, and named in `unreadable`. text_tower: see
    `gp.prune`.

    Raises GroundPruneError for repeated sample ids, a batch size below 1, or an unknown protocol.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        samples: Sequence[Sample],
        batch_size: int = 64,
        text_tower: str | Path | TextEmbedder | None = None,
        protocol: str = "native",
    ):
        if batch_size < 1:
            raise GroundPruneError(f"batch size must be a whole number of at least 1 (got {batch_size})")
        if len({s.id for s in samples}) != len(samples):
            raise GroundPruneError("two samples share an id")
        self.model, self.processor, self.samples = model, processor, list(samples)
        self.batch_size = batch_size
        self._scorer = Scorer(grounding_of(model), processor, protocol)
        self.protocol, self.grounding = protocol, self._scorer.reader.grounding
        self.unreadable: dict[str, str] = {}  # by sample id: why it cannot be asked
        self._tower = text_tower
        self._prepared: tuple[list[Words], EncodedImages | None] | None = None
        self._limits: dict[str, int] = {}  # what max_new_tokens found, by kind
        self._fits: int | None = None  # rows that fit into memory, once it ran out

    def check(self, settings: Iterable[Setting]) -> None:
        """Raises GroundPruneError (Unservable) for the first setting that this model cannot run; runs nothing."""
        for setting in settings:
            with self._context(setting, [""]):
                pass

    def leave_out_unreadable(self, among: Collection[str]) -> None:
        """Drop the samples with these ids that cannot be asked; encodes nothing."""
        for sample in self.samples:
            if sample.id in among:
                self._open([sample])
        self.samples = [s for s in self.samples if s.id not in self.unreadable]

    def prepare(self, settings: Iterable[Setting], advance: Callable[[int], None] = lambda images: None) -> None:
        """Tokenize every sample, and encode every image once, recording what the settings' pruners score by.

        advance: called with the number of samples after each batch.
        """
        pruners = [setting.make_pruner() for setting in settings]
        by_image: dict[str, list[Sample]] = {}
        for sample in self.samples:
            by_image.setdefault(sample.image_key, []).append(sample)
        groups, words, parts = list(by_image.values()), dict[str, Words](), list[EncodedImages]()
        images = 0
        for start in range(0, len(groups), ENCODE_BATCH):
            chunk = groups[start : start + ENCODE_BATCH]
            opened = [(fine, image) for fine, image in map(self._open, chunk) if fine and image is not None]
            first = [(group[0], image) for group, image in opened]
            # What a prompt says does not change what the tower sees of its image.
            parts += _halving(first, lambda some: [encode(self.model, self._inputs(some), pruners)])
            asked = [(sample, image, images + i) for i, (group, image) in enumerate(opened) for sample in group]
            for at in range(0, len(asked), ENCODE_BATCH):
                words |= self._words(asked[at : at + ENCODE_BATCH])
            images += len(opened)
            advance(sum(map(len, chunk)))
        self.samples = [s for s in self.samples if s.id not in self.unreadable]
        self._limits.clear()
        self._prepared = [words[s.id] for s in self.samples], EncodedImages.join(parts) if parts else None

    def free(self) -> None:
        """Give back the memory of the encoded images; `prepare` encodes them again."""
        self._prepared = None

    def run(self, setting: Setting, done: Collection[str] = ()) -> Iterator[list[dict[str, Any]]]:
        """Yields the result rows of one batch after another (see `groundprune.evaluation.results`).

        done: ids of samples that need no answer. A batch with a sample that does runs whole, so that a resumed run
        computes exactly what an uninterrupted one would have. A batch that does not fit into memory is halved, and so
        are all that come after it.
        """
        for batch in self.batches():
            missing = {i for i in batch if self.samples[i].id not in done}
            if missing:
                answered = zip(batch, self._answers(setting, batch), strict=True)
                yield [self._row(setting, i, text, kept) for i, (text, kept) in answered if i in missing]

    def batches(self) -> list[list[int]]:
        """Sample indices of one kind and of similar length; a function of the samples and the batch size alone."""
        words, _ = self._ready
        found: list[list[int]] = []
        for kind in ("rec", "vqa"):
            of_kind = [i for i, s in enumerate(self.samples) if s.kind == kind]
            by_length = sorted(of_kind, key=lambda i: len(words[i].columns["input_ids"]))
            found += [by_length[i : i + self.batch_size] for i in range(0, len(by_length), self.batch_size)]
        return found

    def max_new_tokens(self, kind: str) -> int:
        """See `max_new_tokens`; the same for all samples of a kind, in whatever batch they run."""
        texts = {s.text for s in self.samples if s.kind == kind}
        sizes = {w.size for s, w in zip(self.samples, self._ready[0], strict=True) if s.kind == kind}
        return max_new_tokens(self.processor, self.grounding, self.protocol, kind, texts, sizes)

    def _limit(self, kind: str) -> int:
        if kind not in self._limits:
            self._limits[kind] = self.max_new_tokens(kind)
        return self._limits[kind]

    @property
    def _ready(self) -> tuple[list[Words], EncodedImages | None]:
        if self._prepared is None:
            raise GroundPruneError("call prepare() before run(): the images are not encoded yet")
        return self._prepared

    def _open(self, group: Sequence[Sample]) -> tuple[list[Sample], Image.Image | None]:
        """The samples that can be asked about their image, and it."""
        try:
            image = group[0].image
        except ImageError as error:
            self.unreadable |= {sample.id: str(error) for sample in group}
            return [], None
        self.unreadable |= {s.id: why for s in group if (why := s.impossible(*image.size))}
        return [s for s in group if s.id not in self.unreadable], image

    def _inputs(self, asked: Sequence[tuple[Sample, Image.Image]]) -> dict[str, Any]:
        prompts = [prompt_for(self.processor, self.grounding, s.kind, s.text) for s, _ in asked]
        inputs = model_inputs(self.processor, self.grounding, [image for _, image in asked], prompts)
        return dict(inputs.to(self.model.device, self.model.dtype))

    def _words(self, asked: Sequence[tuple[Sample, Image.Image, int]]) -> dict[str, Words]:
        inputs = self._inputs([(sample, image) for sample, image, _ in asked])
        valid = inputs.pop("attention_mask").bool()
        shape = inputs["input_ids"].shape
        placeholders = torch.tensor(list(family_of(self.model.config).token_ids(self.model.config).values()))
        # Pixels, and what else is as large, are for the tower alone.
        rest = {k: v.cpu() for k, v in inputs.items() if torch.is_tensor(v) and v.ndim <= 2 and "pixel" not in k}
        found = {}
        for row, (sample, image, entry) in enumerate(asked):
            columns = {name: value[row, valid[row].cpu()] for name, value in rest.items() if value.shape == shape}
            about = {k: v[row : row + 1] for k, v in rest.items() if v.shape != shape and len(v) == len(asked)}
            visual = int(torch.isin(columns["input_ids"], placeholders).sum())
            found[sample.id] = Words(columns, about, image.size, visual, entry)
        return found

    def _answers(self, setting: Setting, batch: list[int]) -> list[tuple[str, int]]:
        """The text of each sample, and how many visual tokens the LLM read."""
        found: list[tuple[str, int]] = []
        step = self._fits or len(batch)
        for start in range(0, len(batch), step):
            found += _halving(batch[start : start + step], lambda some: self._answer(setting, some), self._ran_out)
        return found

    def _ran_out(self, rows: int) -> None:
        self._fits = (rows + 1) // 2

    @torch.inference_mode()
    def _answer(self, setting: Setting, batch: Sequence[int]) -> list[tuple[str, int]]:
        prepared, encoded = self._ready
        assert encoded is not None  # there is a batch
        words, tokenizer, device = [prepared[i] for i in batch], self.processor.tokenizer, self.model.device
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        inputs = {
            name: _padded([w.columns[name] for w in words], pad if name == "input_ids" else 0)
            for name in words[0].columns
        }
        inputs["attention_mask"] = _padded([torch.ones_like(w.columns["input_ids"]) for w in words], 0)
        inputs |= {name: torch.cat([w.image[name] for w in words]) for name in words[0].image}
        with self._context(setting, [self.samples[i].text for i in batch]) as run:
            output = self.model.generate(
                **{name: value.to(device) for name, value in inputs.items()},
                mm_encoder_outputs=encoded.select([w.entry for w in words], device),
                max_new_tokens=self._limit(self.samples[batch[0]].kind),
                do_sample=False,
                num_beams=1,
            )
            kept = [w.visual for w in words] if run is None else [len(k) for k in run.kept]
        texts = tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return [(text.strip(), count) for text, count in zip(texts, kept, strict=True)]

    def _context(self, setting: Setting, text: list[str]) -> contextlib.AbstractContextManager[Run | None]:
        if setting.plain:
            return contextlib.nullcontext()
        pruner = setting.make_pruner()
        return prune(self.model, pruner, setting.policy(pruner, self.model.config), text, self._tower)

    def _row(self, setting: Setting, index: int, answer: str, kept: int) -> dict[str, Any]:
        return self._scorer.row(setting, self.samples[index], answer, self._ready[0][index].size, kept)


def max_new_tokens(
    processor: Any,
    grounding: Grounding,
    protocol: str,
    kind: str,
    texts: Collection[str],
    sizes: Iterable[tuple[int, int]],
) -> int:
    """What an answer may take: a box of any of the images (width, height in pixels), a name of what it is of.

    texts: the expressions, of which some languages of boxes repeat one.
    """
    if kind == "vqa":
        return VQA_TOKENS
    if protocol == "paper":
        return PAPER_TOKENS
    codecs = {box_codec(processor, grounding, *size) for size in sizes}
    named = texts if any(getattr(codec, "names_object", False) for codec in codecs) else ()
    boxes = [codec.encode(_ANY_BOX) for codec in codecs]
    return _longest(processor, boxes) + _longest(processor, named) + BOX_MARGIN


def _longest(processor: Any, texts: Iterable[str]) -> int:
    count = (len(processor.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts)
    return max(count, default=0)


def _padded(rows: Sequence[Tensor], value: int) -> Tensor:
    return pad_sequence(list(rows), batch_first=True, padding_value=value, padding_side="left")


def _halving(
    items: Sequence[T], work: Callable[[Sequence[T]], list[Any]], ran_out: Callable[[int], None] = lambda rows: None
) -> list[Any]:
    """work(items); where memory runs out, the halves one after the other.

    Raises GroundPruneError where a single one does not fit.
    """
    if not items:
        return []
    try:
        return work(items)
    except torch.OutOfMemoryError as error:
        if len(items) == 1:
            raise GroundPruneError("out of memory with a single prompt: the model needs a larger GPU") from error
    # Outside of `except`, whose traceback holds on to what did not fit.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    ran_out(len(items))
    middle = (len(items) + 1) // 2
    return _halving(items[:middle], work, ran_out) + _halving(items[middle:], work, ran_out)
