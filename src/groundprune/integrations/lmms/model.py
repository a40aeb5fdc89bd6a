"""The two classes that lmms-eval makes of `--model groundprune`: by messages, or by a text and its images."""

from __future__ import annotations

import hashlib
import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

import torch
from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms
from lmms_eval.models.model_utils.gen_metrics import log_metrics
from loguru import logger
from tqdm import tqdm

from groundprune.checkpoints.load import load
from groundprune.errors import GroundPruneError
from groundprune.evaluation.generating import How
from groundprune.integrations.lmms.answering import Answerer, Asked, Said
from groundprune.integrations.lmms.arguments import Arguments
from groundprune.integrations.lmms.decoding import Decoding
from groundprune.integrations.lmms.messages import Conversation, of_context, of_messages
from groundprune.pruning.context import prune

Place = tuple[Any, str, str]  # of a document: its number, the task and the split


class Groundprune(lmms):
    """The chat variant; see `Arguments` for what it takes.

    Raises GroundPruneError for arguments that make no sense, and Unservable where the model cannot be pruned so.
    """

    is_simple = False

    def __init__(self, **arguments: Any):
        super().__init__()
        given = Arguments.of(arguments)
        setting, placement = given.setting, given.placement
        options = {} if given.attn_implementation is None else {"attn_implementation": given.attn_implementation}
        model, processor = load(given.pretrained, dtype=given.dtype, **placement, **options)
        if model.device.type == "cuda":
            torch.cuda.set_device(model.device)  # for collectives, which ask for the current one
        how = None
        if not setting.plain:
            pruner = setting.make_pruner()
            how = How(pruner, setting.policy(pruner, model.config), given.text_tower)
            with prune(model, pruner, how.policy, [""], how.text_tower):
                pass  # refused now, where it cannot be
        self.batch_size, self._seed = given.batch_size, torch.initial_seed()
        self._answerer: Answerer | None = Answerer(model, processor, how)
        self._device, self._ignored = model.device, set[str]()
        logger.info(f"groundprune: {setting.label} of {given.pretrained}")

    @property
    def device(self) -> torch.device:
        return self._device

    def clean(self) -> None:
        """Free the model, for a judge that may need its place."""
        self._answerer = None
        super().clean()

    def generate_until(self, requests: list[Instance]) -> list[Any]:
        """GenerationResults, in the order of the requests."""
        seen = Counter[Place]()
        said = self._answers((self._asked(each, self._first(each), seen) for each in requests), len(requests))
        return [GenerationResult(each.text, TokenCounts(output_tokens=each.new)) for each in said]

    def generate_until_multi_round(self, requests: list[Instance]) -> list[Any]:
        """Each round asks by itself, as the task puts it from the answers before; a batch of requests in step."""
        seen = Counter[Place]()
        parts = [requests[i : i + self.batch_size] for i in range(0, len(requests), self.batch_size)]
        return [answers for part in parts for answers in self._rounds(part, seen)]

    def _rounds(self, requests: list[Instance], seen: Counter[Place]) -> list[list[str]]:
        answers: list[list[str]] = [[] for _ in requests]
        notes: list[Any] = [None] * len(requests)
        going = {i: self._first(request) for i, request in enumerate(requests)}
        for index in itertools.count(1):
            said = self._answers((self._asked(requests[i], x, seen) for i, x in going.items()), len(going))
            following = {}
            for i, answer in zip(going, said, strict=True):
                given = [*answers[i], answer.text]
                talk, so_far, notes[i] = self._next(requests[i], index, given, notes[i])
                answers[i] = given if so_far is None else list(so_far)
                if talk is not None:
                    following[i] = talk
            if not following:
                break
            going = following
        return answers

    def loglikelihood(self, requests: list[Instance]) -> NoReturn:
        tasks = ", ".join(sorted({str(request.task_name) for request in requests}))
        raise GroundPruneError(
            f"groundprune generates answers, and {tasks} asks for the likelihood of given ones (output_type "
            "loglikelihood or multiple_choice): choose the task's generate_until form"
        )

    # What a request asks

    def _place(self, request: Instance) -> Place:
        index, task, split = _arguments(request)[-3:]
        return index, task, split

    def _document(self, request: Instance) -> Any:
        index, task, split = self._place(request)
        return self.task_dict[task][split][index]

    def _options(self, request: Instance) -> dict[str, Any] | None:
        return _arguments(request)[2]

    def _first(self, request: Instance) -> Conversation:
        return self._named(request, lambda: of_messages(_arguments(request)[1](self._document(request))))

    def _next(self, request: Instance, index: int, answers: list[str], notes: Any) -> tuple[Any, Any, Any]:
        found = _arguments(request)[1](
            self._document(request), round_idx=index, previous_output=answers, previous_round_info=notes
        )
        if not isinstance(found, tuple):
            return None, None, None
        messages, over, so_far, notes = found
        talk = None if over else self._named(request, lambda: of_messages(messages))
        return talk, so_far, notes

    def _named(self, request: Instance, work: Callable[[], Any]) -> Any:
        """work(), whose refusals name the document."""
        try:
            return work()
        except GroundPruneError as error:
            document, task, _ = self._place(request)
            raise type(error)(f"{task}, document {document}: {error}") from error

    def _asked(self, request: Instance, talk: Conversation, seen: Counter[Place]) -> Asked:
        """seen: how often each document was asked, for --repeats."""
        place = self._place(request)
        words = repr((self._seed, *place, seen[place]))
        seen[place] += 1
        seed = int.from_bytes(hashlib.blake2b(words.encode(), digest_size=7).digest(), "big")
        decoding = self._named(request, lambda: Decoding.of(self._options(request)))
        for name in set(decoding.ignored) - self._ignored:
            self._ignored.add(name)
            logger.warning(f"groundprune: {place[1]} sets {name}, which generate does not have: ignored")
        return self._named(request, lambda: self._answering.asked(talk, decoding, seed))

    # And its answer

    def _answers(self, asked: Iterable[Asked], count: int) -> list[Said]:
        began = time.monotonic()
        with tqdm(total=count, desc="Model Responding", disable=self.rank != 0) as bar:
            said = self._answering.answers(asked, self.batch_size, bar.update)
        _log(said, time.monotonic() - began)
        return said

    @property
    def _answering(self) -> Answerer:
        assert self._answerer is not None, "clean() has freed the model"
        return self._answerer


class GroundpruneSimple(Groundprune):
    """The simple variant: the task's text, and its images before it or where the text has a mark for each."""

    is_simple = True

    def _options(self, request: Instance) -> dict[str, Any] | None:
        return _arguments(request)[1]

    def _first(self, request: Instance) -> Conversation:
        visuals = _arguments(request)[2](self._document(request))
        return self._named(request, lambda: of_context(_arguments(request)[0], visuals))

    def _next(self, request: Instance, index: int, answers: list[str], notes: Any) -> tuple[Any, Any, Any]:
        found = _arguments(request)[3](
            self._document(request), round_idx=index, previous_output=answers, previous_round_info=notes
        )
        visuals, context, over, so_far, notes = found
        talk = None if over else self._named(request, lambda: of_context(context, visuals))
        return talk, so_far, notes


def _arguments(request: Instance) -> tuple[Any, ...]:
    return request.args


def _log(said: Sequence[Said], seconds: float) -> None:
    new, visual, kept = (sum(getattr(each, name) for each in said) for name in ("new", "visual", "kept"))
    count = max(1, len(said))
    log_metrics(seconds, new, new / seconds, {"visual_tokens": visual / count, "kept_visual_tokens": kept / count})
