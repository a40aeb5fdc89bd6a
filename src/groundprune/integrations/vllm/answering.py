"""`evaluate` with vLLM as the engine: one engine per setting, which answers every question about every image."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from rich.console import Console

from groundprune.checkpoints.hub import POCKET, source_of
from groundprune.checkpoints.load import checkpoint_folder, grounding_of, read_config
from groundprune.checkpoints.processor import load_processor
from groundprune.checkpoints.prompts import framed, prompt_for
from groundprune.data import Sample, open_data
from groundprune.data.sources import as_task
from groundprune.errors import GroundPruneError, Unservable
from groundprune.evaluation.accounting import Decoder, Work
from groundprune.evaluation.asking import asked, how_asked, refuse_repeated
from groundprune.evaluation.identity import about_this_run, files_fingerprint, pruner_files
from groundprune.evaluation.lengths import max_new_tokens
from groundprune.evaluation.loop import answer_all
from groundprune.evaluation.preparing import open_image, readable
from groundprune.evaluation.protocols import check_protocol
from groundprune.evaluation.scoring import Scorer
from groundprune.evaluation.specs import KEEPS, PRUNERS, Setting, compare_settings
from groundprune.evaluation.summary import Summary
from groundprune.families.base import family_of
from groundprune.integrations.vllm import check_version
from groundprune.integrations.vllm.engine import Engine, Reply, Request
from groundprune.integrations.vllm.server import engine_defaults, engine_folder, fitting_length
from groundprune.integrations.vllm.settings import POSITIONS, check_servable, vllm_overrides
from groundprune.signals import VIDEO

# Images are normalised where the transformers path does it, so that both see the same pixels.
DEFAULTS = {"limit_mm_per_prompt": {"image": 1}, "mm_device_do_normalize": False}


def evaluate(
    model_source: str | Path = POCKET,
    data: str = "scenes",
    pruners: Sequence[str] = PRUNERS,
    keeps: Sequence[float | str] = KEEPS,
    positions: Sequence[str] | None = None,
    protocol: str = "native",
    out: str | Path | None = None,
    limit: int | None = None,
    data_root: str | Path | None = None,
    batch_size: int = 64,
    progress: bool = True,
    console: Console | None = None,
    *,
    tokens: Sequence[int | str] = (),
    seed: int = 0,
    engine: Mapping[str, Any] | None = None,
    task: str = "rec",
) -> Summary:
    """As `groundprune.evaluation.evaluate`, with answers from vLLM.

    batch_size: answers that are waited for at a time. engine: what vLLM's AsyncEngineArgs take, such as
    tensor_parallel_size or data_parallel_size. Settings that vLLM cannot run are skipped, and the summary says why.

    Raises GroundPruneError as it does, and where no vLLM is installed.
    """
    if batch_size < 1:
        raise GroundPruneError(f"batch size must be at least 1 (got {batch_size})")
    version = check_version()
    settings = compare_settings(pruners, keeps, positions, tokens)
    found = as_task(open_data(data, data_root, limit, seed=seed), task)
    check_protocol(protocol, {sample.kind for sample in found.samples})
    refuse_repeated(found)
    arguments = {**DEFAULTS, **engine_defaults(model_source), **(engine or {})}
    runner = EngineRunner(model_source, found.samples, batch_size, protocol, arguments)
    run = {
        "engine": "vllm", "model": str(model_source), "weights": files_fingerprint(checkpoint_folder(model_source)),
        "dtype": str(arguments.get("dtype", "auto")), "grounding": how_asked(runner.grounding, found),
        "pruner_files": pruner_files(pruners), **asked(found, protocol, seed, limit),
    }  # fmt: skip
    layers = runner.config.get_text_config().num_hidden_layers
    device = "cuda" if torch.cuda.is_available() else "cpu"
    about = about_this_run(device, batch_size, layers, {"vllm": version}) | {"engine": dict(engine or {})}
    return answer_all([runner], settings, run, about, out, progress, console)


class EngineRunner:
    """Runs a model in vLLM over the same samples under many settings; see `groundprune.evaluation.Runner`.

    samples: one image each, opened when its question is asked. engine: what AsyncEngineArgs take.
    """

    def __init__(
        self,
        source: str | Path,
        samples: Sequence[Sample],
        batch_size: int,
        protocol: str,
        engine: Mapping[str, Any],
    ):
        self.source, self.config, self.samples = source, read_config(source), list(samples)
        self.batch_size, self.engine = batch_size, dict(engine)
        family = family_of(self.config)
        self.processor = family.prepare_processor(load_processor(source_of(source), self.config))
        own = grounding_of(SimpleNamespace(config=self.config))
        self._scorer = Scorer(own, self.processor, protocol)
        self.protocol, self.grounding = protocol, self._scorer.reader.grounding
        self._image_token = family.token_ids(self.config)["image"]
        self.unreadable: dict[str, str] = {}
        self._sizes: dict[str, tuple[int, int]] = {}  # by sample id: width and height of the image
        self._limits: dict[str, int] = {}
        self._decoder = Decoder.of(self.config, _value_bytes(self.engine))

    def check(self, settings: Iterable[Setting]) -> None:
        """Raises Unservable for the first setting that vLLM cannot run on this model."""
        for setting in settings:
            if setting.plain:
                continue
            pruner = setting.make_pruner()
            policy = str(setting.policy(pruner, self.config))
            if setting.pruner is None or policy not in POSITIONS:
                raise Unservable(f"position policy {policy!r} is not served in vLLM (served: {', '.join(POSITIONS)})")
            check_servable(self.config, pruner)
            if VIDEO in pruner.needs:
                raise Unservable(f"{pruner.label} compares the frames of a video, and each sample here is one image")

    def leave_out_unreadable(self, among: Collection[str]) -> None:
        self.samples = readable(self.samples, among, self.unreadable)

    def prepare(self, settings: Iterable[Setting], advance: Callable[[int], None] = lambda images: None) -> None:
        """Look at every image once, for its size."""
        for sample in self.samples:
            _, image = open_image([sample], self.unreadable)
            if image is not None:
                self._sizes[sample.id] = image.size
            advance(1)
        self.samples = [s for s in self.samples if s.id not in self.unreadable]
        for kind in {s.kind for s in self.samples}:
            of_kind = [s for s in self.samples if s.kind == kind]
            texts, sizes = {s.text for s in of_kind}, {self._sizes[s.id] for s in of_kind}
            self._limits[kind] = max_new_tokens(self.processor, self.grounding, self.protocol, kind, texts, sizes)

    def free(self) -> None:
        """There is nothing to give back: an engine ends with its setting."""

    def run(self, setting: Setting, done: Collection[str] = ()) -> Iterator[list[dict[str, Any]]]:
        """Yields no row once the engine is there, then result rows as answers come in, in no particular order."""
        missing = [s for s in self.samples if s.id not in done]
        asked: dict[str, Sample] = {}
        with Engine(self._arguments(setting)) as engine:
            yield []
            while missing or asked:
                while missing and len(asked) < self.batch_size:
                    sample = missing.pop(0)
                    engine.ask(self._request(sample))
                    asked[sample.id] = sample
                reply = engine.reply()
                yield [self._row(setting, asked.pop(reply.id), reply)]

    def _arguments(self, setting: Setting) -> dict[str, Any]:
        given = {"model": engine_folder(self.source), **self.engine}
        # Unpruned, too: vLLM's own LLaVA would cut images where `gp.load` pads them.
        pruner = setting.make_pruner()
        ours = vllm_overrides(self.source, pruner, str(setting.policy(pruner, self.config)), name=setting.pruner)
        given["hf_overrides"] = {**given.get("hf_overrides", {}), **ours}
        length = fitting_length(self.source, ours, images=1)
        return given if length is None else {"max_model_len": length, **given}

    def _request(self, sample: Sample) -> Request:
        prompt = prompt_for(self.processor, self.grounding, sample.kind, sample.text)
        image = framed(self.processor, self.grounding, sample.image)
        media = {"prompt": prompt, "multi_modal_data": {"image": image}}
        return Request(sample.id, media, self._limits[sample.kind])

    def _row(self, setting: Setting, sample: Sample, reply: Reply) -> dict[str, Any]:
        kept = reply.prompt_ids.count(self._image_token)
        read = len(reply.prompt_ids)
        cost = Work([(0, read, read)], reply.new_tokens, None).to_row(self._decoder)
        return self._scorer.row(setting, sample, reply.text, self._sizes[sample.id], kept, cost=cost)


def _value_bytes(engine: Mapping[str, Any]) -> int:
    """Of a number in vLLM's cache: by itself it is of the model's dtype, which is a half one unless asked for."""
    if str(engine.get("kv_cache_dtype", "auto")).startswith("fp8"):
        return 1
    return 4 if str(engine.get("dtype", "auto")).removeprefix("torch.") in ("float", "float32") else 2
