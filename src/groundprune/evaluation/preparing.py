"""Samples made ready for a model: every prompt tokenized, every image opened and encoded once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from groundprune.boxes.images import ImageError
from groundprune.checkpoints.prompts import model_inputs, prompt_for
from groundprune.data.samples import KINDS, Sample
from groundprune.evaluation.devices import input_device
from groundprune.evaluation.memory import halving
from groundprune.evaluation.processes import ALONE, Ranks
from groundprune.families.base import family_of
from groundprune.families.grounding import Grounding
from groundprune.pruners import Pruner
from groundprune.pruning.encode_once import EncodedImages, encode, without_pixels

ENCODE_BATCH = 32
Asked = Sequence[tuple[Sample, Image.Image]]


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


@dataclass(frozen=True, eq=False)
class Prepared:
    """samples: those that can be asked. words: one entry each. encoded: their images, of several processes those of
    this one's batches; None where there is none."""

    samples: list[Sample]
    words: list[Words]
    encoded: EncodedImages | None

    def batches(self, size: int) -> list[list[int]]:
        """Sample indices of one kind and of similar length; a function of the samples and the size alone."""
        found: list[list[int]] = []
        for kind in KINDS:
            of_kind = [i for i, s in enumerate(self.samples) if s.kind == kind]
            by_length = sorted(of_kind, key=lambda i: len(self.words[i].columns["input_ids"]))
            found += [by_length[i : i + size] for i in range(0, len(by_length), size)]
        return found

    def share(self, size: int, ranks: Ranks) -> list[tuple[int, list[int]]]:
        """The batches of one process of several, and which they are: every batch is one process's, as a whole."""
        return [(n, batch) for n, batch in enumerate(self.batches(size)) if n % ranks.count == ranks.rank]

    def inputs(self, batch: Sequence[int], tokenizer: Any, device: torch.device) -> dict[str, Any]:
        """What the model takes for these samples: padded on the left, and with the encoded images."""
        words = [self.words[i] for i in batch]
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        inputs = {
            name: _padded([w.columns[name] for w in words], pad if name == "input_ids" else 0)
            for name in words[0].columns
        }
        inputs["attention_mask"] = _padded([torch.ones_like(w.columns["input_ids"]) for w in words], 0)
        inputs |= {name: torch.cat([w.image[name] for w in words]) for name in words[0].image}
        assert self.encoded is not None  # there is a batch
        images = self.encoded.select([w.entry for w in words], device)
        return {name: value.to(device) for name, value in inputs.items()} | {"mm_encoder_outputs": images}


@dataclass(frozen=True, eq=False)
class _Chunk:
    """Images that are encoded together. words: by sample; their entries count from the chunk's first image.
    unreadable: by sample id, see `prepare`. encoded: None where there is none, or where another process has them."""

    words: dict[str, Words]
    unreadable: dict[str, str]
    images: int
    encoded: EncodedImages | None


def prepare(
    model: Any,
    processor: Any,
    grounding: Grounding,
    samples: Sequence[Sample],
    pruners: Iterable[Pruner],
    unreadable: dict[str, str],
    advance: Callable[[int], None] = lambda images: None,
    batch_size: int = 1,
    ranks: Ranks = ALONE,
) -> Prepared:
    """Tokenize every sample, and encode every image once, recording what the pruners score by.

    Of several processes each opens and encodes its share of the images, in the company that they have in one process:
    in another one their features may differ in the last bit. What they are is then told to all.

    unreadable: gets the samples that cannot be asked, by id, and why. advance: called with the number of samples
    after each batch. batch_size: what `share` of the result will be asked for.
    """
    pruners, by_image = list(pruners), dict[str, list[Sample]]()
    for sample in samples:
        by_image.setdefault(sample.image_key, []).append(sample)

    def inputs(asked: Asked) -> dict[str, Any]:
        prompts = [prompt_for(processor, grounding, s.kind, s.text) for s, _ in asked]
        found = model_inputs(processor, grounding, [image for _, image in asked], prompts)
        return dict(found.to(input_device(model), model.dtype))

    def chunk(groups: Sequence[list[Sample]]) -> _Chunk:
        damaged, words = dict[str, str](), dict[str, Words]()
        tried = [open_image(group, damaged) for group in groups]
        opened = [(fine, image) for fine, image in tried if fine and image is not None]
        first = [(group[0], image) for group, image in opened]
        # What a prompt says does not change what the tower sees of its image.
        parts = halving(first, lambda some: [encode(model, inputs(some), pruners)])
        asked = [(sample, image, i) for i, (group, image) in enumerate(opened) for sample in group]
        for at in range(0, len(asked), ENCODE_BATCH):
            some = asked[at : at + ENCODE_BATCH]
            words |= _words(model.config, inputs([(sample, image) for sample, image, _ in some]), some)
        return _Chunk(words, damaged, len(opened), EncodedImages.join(parts) if parts else None)

    groups, own = list(by_image.values()), dict[int, _Chunk]()
    with ranks.agreed():
        for number, start in enumerate(range(0, len(groups), ENCODE_BATCH)):
            some = groups[start : start + ENCODE_BATCH]
            if number % ranks.count == ranks.rank:
                own[number] = chunk(some)
            advance(sum(map(len, some)))
    told = ranks.gather({number: replace(found, encoded=None) for number, found in own.items()})
    words, images, chunks = dict[str, Words](), 0, sorted({n: c for some in told for n, c in some.items()}.items())
    for _, found in chunks:
        unreadable |= found.unreadable
        words |= {id: replace(w, entry=images + w.entry) for id, w in found.words.items()}
        images += found.images
    able = [s for s in samples if s.id not in unreadable]
    prepared = Prepared(able, [words[s.id] for s in able], None)
    if ranks.count == 1:
        parts = [found.encoded for found in own.values() if found.encoded is not None]
        return replace(prepared, encoded=EncodedImages.join(parts) if parts else None)
    return _distributed(prepared, own, [found.images for _, found in chunks], batch_size, ranks)


def _distributed(
    prepared: Prepared, own: dict[int, _Chunk], images: Sequence[int], batch_size: int, ranks: Ranks
) -> Prepared:
    """The same with the images of this process's batches. images: how many each chunk holds."""
    needed = {prepared.words[i].entry for _, batch in prepared.share(batch_size, ranks) for i in batch}
    parts, place, start = list[EncodedImages](), dict[int, int](), 0
    for number, count in enumerate(images):
        mine = own.pop(number).encoded if number in own else None
        sent = ranks.send(None if mine is None else mine.take(range(count)), source=number % ranks.count)
        if sent is not None and (rows := [i for i in range(count) if start + i in needed]):
            place |= {start + row: len(place) + i for i, row in enumerate(rows)}
            parts.append(sent.take(rows))
        start += count
    words = [replace(w, entry=place.get(w.entry, -1)) for w in prepared.words]
    return Prepared(prepared.samples, words, EncodedImages.join(parts) if parts else None)


def open_image(group: Sequence[Sample], unreadable: dict[str, str]) -> tuple[list[Sample], Image.Image | None]:
    """Of samples about one image those that can be asked, and the image; the others join `unreadable`, and why."""
    try:
        image = group[0].image
    except ImageError as error:
        unreadable |= {sample.id: str(error) for sample in group}
        return [], None
    unreadable |= {s.id: why for s in group if (why := s.impossible(*image.size))}
    return [s for s in group if s.id not in unreadable], image


def readable(samples: Sequence[Sample], among: Collection[str], unreadable: dict[str, str]) -> list[Sample]:
    """The samples that can be asked, of which those with the ids of `among` are looked at; encodes nothing."""
    for sample in samples:
        if sample.id in among:
            open_image([sample], unreadable)
    return [s for s in samples if s.id not in unreadable]


def _words(config: Any, inputs: dict[str, Any], asked: Sequence[tuple[Sample, Image.Image, int]]) -> dict[str, Words]:
    valid = inputs.pop("attention_mask").bool()
    shape = inputs["input_ids"].shape
    placeholders = torch.tensor(list(family_of(config).token_ids(config).values()))
    rest = {name: value.cpu() for name, value in without_pixels(inputs).items()}
    found = {}
    for row, (sample, image, entry) in enumerate(asked):
        columns = {name: value[row, valid[row].cpu()] for name, value in rest.items() if value.shape == shape}
        about = {k: v[row : row + 1] for k, v in rest.items() if v.shape != shape and len(v) == len(asked)}
        visual = int(torch.isin(columns["input_ids"], placeholders).sum())
        found[sample.id] = Words(columns, about, image.size, visual, entry)
    return found


def _padded(rows: Sequence[Tensor], value: int) -> Tensor:
    return pad_sequence(list(rows), batch_first=True, padding_value=value, padding_side="left")
