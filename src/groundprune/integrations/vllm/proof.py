"""Does this installation of vLLM compute what pruning promises? Measured on it, not read from its version.

Tiny random models of each family run through vLLM's engine and through the transformers path, and the
log-probabilities of the whole vocabulary are compared, greedy token by token. The transformers path itself is held
against the masked oracle (`exactness.verify`). The prompts are those at which positions could go wrong. The control
is an engine that numbers the kept tokens anew: it must say something else, or the proof could not fail.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from groundprune.checkpoints.load import load
from groundprune.errors import GroundPruneError, Unproven, Unservable, unknown
from groundprune.exactness.arithmetic import relative_difference
from groundprune.exactness.folders import prompt, save_checkpoint
from groundprune.exactness.layouts import LAYOUTS
from groundprune.exactness.verify import verify
from groundprune.integrations.vllm.proof_cases import BLOCK, BUDGET, Case, cases, one_image
from groundprune.integrations.vllm.proof_engine import Speaker
from groundprune.integrations.vllm.proof_images import Images, choose_images
from groundprune.integrations.vllm.saying import Said, by_transformers, inputs_of
from groundprune.integrations.vllm.settings import ARCHITECTURES, check_servable, vllm_overrides
from groundprune.integrations.vllm.stored_proofs import Installation
from groundprune.pruners import Pruner, Spec

PRUNERS = ("spatial", "cls-visual")  # one that is settled before the tower has seen the image, one that it decides
KEEP = 0.5
# Largest difference of log-probabilities that counts as exact, and what the control must differ by at least, both
# relative to the largest log-probability. In fp32 kernels that sum in other orders come to some 1e-6. Half precision
# is held against fp32 with weights that are rounded alike: what is left is the rounding of states, measured on a CPU
# over all cases of tiny LLaVA and Qwen2.5-VL as up to 0.002 in fp16 and 0.014 in bf16, whose steps are eight times as
# large; the tolerances are three times that. There the proof is blunter: it finds tokens that stand elsewhere
# altogether, as the renumbered ones do.
TOLERANCES = {"float32": 5e-4, "float16": 5e-3, "bfloat16": 4e-2}
CONTROLS = {"float32": 1e-2, "float16": 5e-2, "bfloat16": 1e-1}
STEPS = 8
LENGTH = 512
CONTROL = "renumbered"
UNCOUNTABLE = "log-probabilities are no numbers, or of other words"


@dataclass(frozen=True)
class Outcome:
    """What became of one case.

    Attributes:
        family: of the tiny model.
        pruner: its name.
        case: which prompt; or "masked oracle", of the transformers path, "renumbered", the control; "images", of
            which none do, and "engine", which did not start.
        tolerance: the largest difference that counts as exact; of the control the smallest that does.
        difference: of vLLM from transformers, of log-probabilities relative to the largest; None where none was
            measured.
        same_tokens: whether both said the same.
        reason: why the case failed, or tells nothing, where the difference is not why; None else.
        verdict: "ok", "FAILED", or "inconclusive": nothing can be told.
        installation: on which it was measured; None where no engine has started.
    """

    family: str
    pruner: str
    case: str
    tolerance: float
    difference: float | None = None
    same_tokens: bool | None = None
    reason: str | None = None
    verdict: str = "ok"
    installation: Installation | None = None

    @property
    def said(self) -> str:
        """In a line, for a case that is not ok."""
        where = f"{self.family}, {self.pruner}, {self.case}"
        if self.reason is not None:
            return f"{where}: {self.reason}"
        tokens = "" if self.same_tokens is not False else ", other tokens"
        return f"{where}: log-probabilities differ by {self.difference:.1e}{tokens}; {self.tolerance:.0e} is allowed"


def prove(
    speaker: Speaker,
    families: Sequence[str],
    pruners: Sequence[str] = PRUNERS,
    short: bool = False,
    dtype: str = "float32",
    compiled: bool = False,
    note: Callable[[str], object] = lambda text: None,
) -> Iterator[Outcome]:
    """Prove families one by one, case by case.

    Args:
        speaker: vLLM, see `OtherProcess`.
        families: of `ARCHITECTURES`.
        pruners: names, or path/to/file.py:Class; the last one's engine is the one that is renumbered.
        short: of the pruners that a family is served with, only the last.
        dtype: in which vLLM computes. transformers computes in fp32, with weights that are rounded to it.
        compiled: with vLLM's compilation and its graphs, in place of eager.
        note: is told what is skipped, and why.

    Raises:
        GroundPruneError: an unknown family, pruner or dtype.
    """
    if dtype not in TOLERANCES:
        raise unknown("dtype", dtype, TOLERANCES)
    for family in families:
        if family not in ARCHITECTURES:
            raise unknown("family served inside of vLLM", family, ARCHITECTURES)
    for family in families:
        if family not in LAYOUTS:
            note(f"{family}: skipped: no layout of its checkpoints is known")
            continue
        with tempfile.TemporaryDirectory(prefix="groundprune-proof-") as folder:
            yield from _Proof(speaker, family, Path(folder), dtype, compiled).run(pruners, short, note)


def short_form(families: Sequence[str]) -> list[str]:
    """Of families the first with positions of one axis and the first with three, which are placed by other code."""
    from groundprune.families import families as known

    axes = {known()[family].position_axes: family for family in reversed(families)}
    return [family for family in families if family in axes.values()]


class _Proof:
    """Of one family, on a tiny checkpoint that is written to the folder."""

    def __init__(self, speaker: Speaker, family: str, folder: Path, dtype: str, compiled: bool):
        self.speaker, self.family, self.folder = speaker, family, folder
        self.dtype, self.compiled, self.tolerance = dtype, compiled, TOLERANCES[dtype]
        # Original positions reach further than slots.
        save_checkpoint(family, folder, dtype=getattr(torch, dtype), max_position_embeddings=8 * LENGTH)
        self.model, self.processor = load(folder, device="cpu")
        self.installation: Installation | None = None

    def run(self, names: Sequence[str], short: bool, note: Callable[[str], object]) -> Iterator[Outcome]:
        pruners = {}
        for name in names:
            spec = Spec.parse(name)
            pruner = spec.make_pruner(None if spec.has_budget else KEEP)
            try:
                check_servable(self.model.config, pruner)
            except Unservable as error:
                note(f"{self.family}: skipped {str(error).partition('; inside of vLLM this model can run')[0]}")
                continue
            pruners[name] = pruner
        if not pruners:
            return
        pruners = dict(list(pruners.items())[-1:]) if short else pruners
        try:
            images = choose_images(self.model, self.processor, list(pruners.values()))
        except (Unproven, Unservable) as error:  # of this family; others may be proven
            name = list(pruners)[-1]
            yield Outcome(self.family, name, "images", self.tolerance, reason=str(error), verdict="inconclusive")
            return
        for (name, pruner), dropped in zip(pruners.items(), images.dropped, strict=True):
            yield self._oracle(name, pruner, images)
            asked = cases(self.model.config, self.processor, images, dropped)
            yield from self._engine(name, pruner, "preserved", asked)
        for name, pruner in list(pruners.items())[-1:]:
            control = Case((CONTROL,), [one_image(self.processor, images, "the red circle w20")])
            yield from self._engine(name, pruner, "reassigned", [control])

    def _oracle(self, name: str, pruner: Pruner, images: Images) -> Outcome:
        text, both = prompt(self.processor, 2, "the red circle w20"), images.both
        found = verify(self.model, inputs_of(self.processor, text, both), pruner, steps=STEPS)
        apart = found.difference if math.isfinite(found.difference) else None
        reason = found.doubt or (None if found.keep_all_exact else "keep=1 is not the stock model")
        return Outcome(
            self.family, name, "masked oracle", found.tolerance, apart, found.same_tokens,
            reason or (UNCOUNTABLE if apart is None else None), found.verdict,
        )  # fmt: skip

    def _engine(self, name: str, pruner: Pruner, positions: str, asked: Sequence[Case]) -> Iterator[Outcome]:
        try:
            self.installation = self.speaker.start(self._arguments(name, pruner, positions))
        except GroundPruneError as error:
            yield Outcome(self.family, name, "engine", self.tolerance, reason=str(error), verdict="FAILED")
            return
        for case in asked:
            try:
                for request in case.before:
                    self.speaker.say([request], STEPS)
                found = self.speaker.say(case.requests, STEPS)
            except GroundPruneError as error:
                yield Outcome(
                    self.family, name, case.names[0], self.tolerance, reason=str(error), verdict="FAILED",
                    installation=self.installation,
                )  # fmt: skip
                return
            expected = by_transformers(self.model, self.processor, case.requests, pruner, steps=STEPS)
            for each, mine, theirs in zip(case.names, found, expected, strict=True):
                yield self._outcome(name, each, mine, theirs, case.check)

    def _outcome(
        self, name: str, case: str, found: Said, expected: Said, check: Callable[[Said], str | None]
    ) -> Outcome:
        apart, same = compare(found, expected)
        reason, verdict, bound = None, "ok", self.tolerance
        if case == CONTROL:
            bound = CONTROLS[self.dtype]
            if not bound < apart < math.inf:
                reason, verdict = f"numbered anew, it differs by {apart:.1e} alone: nothing is proven", "inconclusive"
        elif found.columns != expected.columns:
            reason, verdict = f"{found.columns} slots were taken, not {expected.columns}", "FAILED"
        elif not math.isfinite(apart):
            reason, verdict = UNCOUNTABLE, "FAILED"
        elif apart > self.tolerance or not (same or self.dtype != "float32"):
            verdict = "FAILED"
        elif (reason := check(found)) is not None:
            verdict = "inconclusive"
        said = apart if math.isfinite(apart) else None
        return Outcome(self.family, name, case, bound, said, same, reason, verdict, self.installation)

    def _arguments(self, name: str, pruner: Pruner, positions: str) -> dict[str, Any]:
        return {
            "model": str(self.folder), "hf_overrides": vllm_overrides(self.folder, pruner, positions, name=name),
            "dtype": self.dtype, "enforce_eager": not self.compiled, "distributed_executor_backend": "uni",
            "block_size": BLOCK, "max_model_len": LENGTH, "max_num_batched_tokens": BUDGET, "max_num_seqs": 8,
            "limit_mm_per_prompt": {"image": 2}, "enable_prefix_caching": True, "max_logprobs": -1, "seed": 0,
            "mm_device_do_normalize": False, "kv_cache_memory_bytes": 2**28, "gpu_memory_utilization": 0.1,
            "use_tqdm_on_load": False,
        }  # fmt: skip


def compare(found: Said, expected: Said) -> tuple[float, bool]:
    """(the largest difference of log-probabilities relative to the largest of them, whether the tokens are the same).

    Up to the step at which they say different things; later ones answer other prompts.
    """
    same = found.ids == expected.ids
    parted = [a != b for a, b in zip(found.ids, expected.ids, strict=True)]
    count = len(parted) if same else parted.index(True) + 1
    return relative_difference(list(found.logprobs[:count]), list(expected.logprobs[:count])), same
