"""A model answers samples under one setting after another: encoded once, pruned many times, in fixed batches."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from groundprune.checkpoints.load import grounding_of
from groundprune.data.samples import Sample
from groundprune.errors import GroundPruneError
from groundprune.evaluation.accounting import Work, count_new
from groundprune.evaluation.devices import input_device
from groundprune.evaluation.generating import How, generate
from groundprune.evaluation.interventions import Intervention, Truths, chosen
from groundprune.evaluation.lengths import max_new_tokens
from groundprune.evaluation.memory import halving
from groundprune.evaluation.meter import Meter
from groundprune.evaluation.preparing import Prepared, prepare, readable
from groundprune.evaluation.processes import ALONE, Ranks
from groundprune.evaluation.rows import KeptCells
from groundprune.evaluation.scoring import Scorer
from groundprune.evaluation.specs import Setting
from groundprune.pruners import Pruner
from groundprune.pruning.context import Run, prune
from groundprune.pruning.inputs import PrunedInputs
from groundprune.signals import TextEmbedder
from groundprune.tokens.compaction import Policy


@dataclass(frozen=True, eq=False)
class Answer:
    """kept: visual tokens that the LLM read to its end; cells: which, where a pruner ran; work: what it cost."""

    text: str
    kept: int
    cells: KeptCells | None
    work: Work


class Runner:
    """Runs one model over the same samples under many settings.

    The encoded images are held in memory (not on the GPU) for as long as the runner is, so give it a part of a large
    data set (`groundprune.evaluation.evaluate` does). A sample whose image cannot be read, or whose box cannot be in
    it, is left out of `samples` by `prepare`, and named in `unreadable`.

    Args:
        model: what `gp.load` gives.
        processor: likewise.
        samples: one image each.
        batch_size: prompts that run together.
        text_tower: see `gp.prune_inputs`.
        protocol: see `groundprune.evaluation.protocols`.
        interventions: by the name that settings give them.
        meter: of this model and processor, where several runners share one.
        ranks: processes, which share the batches; each has a runner of its own, with the same arguments.

    Raises:
        GroundPruneError: repeated sample ids, a batch size below 1, or an unknown protocol.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        samples: Sequence[Sample],
        batch_size: int = 64,
        text_tower: str | Path | TextEmbedder | None = None,
        protocol: str = "native",
        interventions: Mapping[str, Intervention] | None = None,
        meter: Meter | None = None,
        ranks: Ranks = ALONE,
    ):
        if batch_size < 1:
            raise GroundPruneError(f"batch size must be a whole number of at least 1 (got {batch_size})")
        if len({s.id for s in samples}) != len(samples):
            raise GroundPruneError("two samples share an id")
        self.model, self.processor, self.samples = model, processor, list(samples)
        self.batch_size, self.ranks = batch_size, ranks
        self.batch = 0  # which one is being answered
        self._scorer = Scorer(grounding_of(model), processor, protocol)
        self.protocol, self.grounding = protocol, self._scorer.reader.grounding
        self.unreadable: dict[str, str] = {}  # by sample id: why it cannot be asked
        self._tower, self._interventions = text_tower, interventions or {}
        self._meter = meter or Meter(model, processor)
        self._prepared: Prepared | None = None
        self._limits: dict[str, int] = {}  # what max_new_tokens found, by kind
        self._fits: int | None = None  # rows that fit into memory, once it ran out

    def check(self, settings: Iterable[Setting]) -> None:
        """Find out whether the model can run settings; runs nothing.

        Args:
            settings: any.

        Raises:
            Unservable: the first that it cannot run.
        """
        for setting in settings:
            if not setting.plain:
                pruner, policy = self._how(setting, [])
                with prune(self.model, pruner, policy, [""], self._tower):
                    pass

    def leave_out_unreadable(self, among: Collection[str]) -> None:
        """Drop the samples with these ids that cannot be asked; encodes nothing."""
        self.samples = readable(self.samples, among, self.unreadable)

    def prepare(self, settings: Iterable[Setting], advance: Callable[[int], None] = lambda images: None) -> None:
        """Tokenize every sample, and encode every image once, recording what the settings' pruners score by.

        Args:
            settings: all that will be run.
            advance: called with the number of samples after each batch.
        """
        pruners = [setting.make_pruner() for setting in settings]
        self._prepared = prepare(
            self.model, self.processor, self.grounding, self.samples, pruners, self.unreadable, advance,
            self.batch_size, self.ranks,
        )  # fmt: skip
        self.samples = self._prepared.samples
        self._limits.clear()
        for words in self._prepared.words:  # now: what is counted must not slow down the first setting
            self._meter.tower_flops(self.grounding, words.size)

    def free(self) -> None:
        """Give back the memory of the encoded images; `prepare` encodes them again."""
        self._prepared = None

    def run(self, setting: Setting, done: Collection[str] = ()) -> Iterator[list[dict[str, Any]]]:
        """Answer the samples under one setting.

        A batch with a sample that needs an answer runs whole, so that a resumed run computes exactly what an
        uninterrupted one would have. Of several processes each runs its share of the batches. A batch that does not
        fit into memory is halved, and so are all after it.

        Args:
            setting: one of those that were prepared.
            done: ids of samples that need no answer.

        Yields:
            The result rows of one batch after another, see `groundprune.evaluation.results`.
        """
        for number, batch in self._ready.share(self.batch_size, self.ranks):
            self.batch = number
            missing = {i for i in batch if self.samples[i].id not in done}
            if missing:
                answered = zip(batch, self._answers(setting, batch), strict=True)
                yield [self._row(setting, i, answer) for i, answer in answered if i in missing]

    def batches(self) -> list[list[int]]:
        """Sample indices of one kind and of similar length; a function of the samples and the batch size alone."""
        return self._ready.batches(self.batch_size)

    def max_new_tokens(self, kind: str) -> int:
        """See `max_new_tokens`; the same for all samples of a kind, in whatever batch they run."""
        if kind not in self._limits:
            texts = {s.text for s in self.samples if s.kind == kind}
            sizes = {w.size for s, w in zip(self.samples, self._ready.words, strict=True) if s.kind == kind}
            found = max_new_tokens(self.processor, self.grounding, self.protocol, kind, texts, sizes)
            self._limits[kind] = found
        return self._limits[kind]

    @property
    def _ready(self) -> Prepared:
        if self._prepared is None:
            raise GroundPruneError("call prepare() before run(): the images are not encoded yet")
        return self._prepared

    def _answers(self, setting: Setting, batch: list[int]) -> list[Answer]:
        found: list[Answer] = []
        step = self._fits or len(batch)
        for start in range(0, len(batch), step):
            found += halving(batch[start : start + step], lambda some: self._answer(setting, some), self._ran_out)
        return found

    def _ran_out(self, rows: int) -> None:
        self._fits = (rows + 1) // 2

    @torch.inference_mode()
    def _answer(self, setting: Setting, batch: Sequence[int]) -> list[Answer]:
        tokenizer = self.processor.tokenizer
        inputs = self._ready.inputs(batch, tokenizer, input_device(self.model))
        output, pruned = self._generate(setting, inputs, batch)
        texts = [text.strip() for text in tokenizer.batch_decode(output, skip_special_tokens=True)]
        counts = count_new(output, self.model.generation_config.eos_token_id)
        found: list[Answer] = []
        for row, (index, text, count) in enumerate(zip(batch, texts, counts, strict=True)):
            words = self._ready.words[index]
            tower = self._meter.tower_flops(self.grounding, words.size)
            length = len(words.columns["input_ids"])
            if pruned is None:
                found.append(Answer(text, words.visual, None, Work([(0, length, length)], count, tower)))
                continue
            layout, kept = pruned.layout[row], pruned.kept[row]
            work = Work(pruned.prompt.slots(row, length), count, tower)
            found.append(Answer(text, len(kept), KeptCells.of(layout, kept) if setting.pruner else None, work))
        return found

    def _generate(
        self, setting: Setting, inputs: dict[str, Any], batch: Sequence[int]
    ) -> tuple[Tensor, PrunedInputs | Run | None]:
        """New tokens, Long[B, S], and what was kept; None of the stock model."""
        limit = self.max_new_tokens(self.samples[batch[0]].kind)
        decoding: dict[str, Any] = {"max_new_tokens": limit, "do_sample": False, "num_beams": 1}
        how = None if setting.plain else How(*self._how(setting, batch), self._tower)
        return generate(self.model, inputs, how, [self.samples[i].text for i in batch], decoding)

    def _how(self, setting: Setting, batch: Sequence[int]) -> tuple[Pruner, Policy]:
        sizes = [self._ready.words[i].size for i in batch]
        truths = Truths([self.samples[i] for i in batch], sizes, self.grounding.frame)
        return chosen(setting, self.model.config, self._interventions, truths)

    def _row(self, setting: Setting, index: int, answer: Answer) -> dict[str, Any]:
        size, cost = self._ready.words[index].size, answer.work.to_row(self._meter.decoder)
        return self._scorer.row(setting, self.samples[index], answer.text, size, answer.kept, answer.cells, cost)
