"""Is pruning exact? The proof that a user can run on a model of their own.

Three facts. keep=1.0 is the stock model, to the bit. Pruning with preserved positions equals the UNPRUNED sequence
under an attention mask that hides the dropped tokens from all others (`exactness.oracle`); where a pruner merges, the
oracle's kept slots read the merged features too. And the control: with reassigned positions that equality breaks, so
the test can fail.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from groundprune.errors import GroundPruneError, Unproven
from groundprune.exactness.oracle import hidden_columns, hide
from groundprune.exactness.replay import entering, joining, merged_states, reading
from groundprune.pruners.base import Pruner
from groundprune.pruners.spec import spec_of
from groundprune.pruning.context import Run, prune
from groundprune.pruning.wrapped import unwrapped
from groundprune.signals import TextEmbedder

TOLERANCE = 1e-5  # relative, fp32
CONTROL = 1e-2  # what the control must differ by at least


@dataclass(frozen=True)
class Verification:
    """What `verify` measured. Differences are of logits, the largest over all steps, relative to the oracle's.

    Attributes:
        pruner: its name, with the options that were given.
        layers: where tokens were dropped, 0 = before the LLM.
        kept: per row how many visual tokens stayed to the end, and of how many.
        steps: greedy tokens beyond the prefill.
        keep_all_exact: whether keep=1 was the stock model, to the bit.
        difference: of pruning from the oracle.
        same_tokens: whether both said the same.
        control: by how much reassigned positions differ from the oracle.
        tolerance: the largest difference that counts as exact.
    """

    pruner: str
    layers: list[int]
    kept: list[tuple[int, int]]
    steps: int
    keep_all_exact: bool
    difference: float
    same_tokens: bool
    control: float
    tolerance: float = TOLERANCE

    @property
    def exact(self) -> bool:
        """Whether the first two facts hold."""
        return self.keep_all_exact and self.same_tokens and self.difference <= self.tolerance

    @property
    def verdict(self) -> str:
        """Of "ok", "FAILED", or "inconclusive": exact, but so would wrong positions have looked."""
        return "FAILED" if not self.exact else "ok" if self.control > CONTROL else "inconclusive"

    @property
    def passed(self) -> bool:
        """Whether all three do."""
        return self.verdict == "ok"


@contextlib.contextmanager
def in_fp32(model: Any) -> Iterator[None]:
    """While active, the model's floating-point weights are in fp32, in which the rounded ones are exact.

    Then they are those of before: the same tensors.
    """
    halves = [
        (tensor, tensor.data)
        for tensor in (*model.parameters(), *model.buffers())
        if tensor.is_floating_point() and tensor.dtype.itemsize < 4
    ]
    for tensor, half in halves:
        tensor.data = half.float()
    try:
        yield
    finally:
        for tensor, half in halves:
            tensor.data = half


@torch.no_grad()
def verify(
    model: Any,
    inputs: dict[str, Any],
    pruner: Pruner,
    text: Sequence[str] | None = None,
    text_tower: str | Path | TextEmbedder | None = None,
    steps: int = 8,
    tolerance: float = TOLERANCE,
) -> Verification:
    """Measure whether pruning is exact: keep=1, the masked oracle, and the control that must differ.

    Measured in fp32, whatever the model is in: in half precision rounding alone exceeds the tolerance. For the time
    of the proof a model in half precision takes three times its memory.

    Args:
        model: a transformers model of a known family, or a wrapper of one.
        inputs: what the processor gives: input_ids Long[B, L], attention_mask, pixel_values, ...
        pruner: must drop something, or there is nothing to prove.
        text: for pruners that read the request, one entry per prompt row.
        text_tower: see `gp.prune`.
        steps: greedy tokens to decode beyond the prefill.
        tolerance: relative, of logits.

    Returns:
        Verification, with a `verdict`.

    Raises:
        Unproven: nothing was dropped.
        Unservable: the model cannot give what the pruner needs.
    """
    model = unwrapped(model)
    with in_fp32(model):
        floats = {
            name: value.float() if torch.is_tensor(value) and value.is_floating_point() else value
            for name, value in inputs.items()
        }
        return _verify(model, floats, pruner, {"text": text, "text_tower": text_tower}, steps, tolerance)


def _verify(
    model: Any, inputs: dict[str, Any], pruner: Pruner, texts: dict[str, Any], steps: int, tolerance: float
) -> Verification:
    stock = _decode(model, inputs, steps)
    with prune(model, replace(pruner, keep=1, tokens=None), **texts):
        whole = _decode(model, inputs, steps)
    with entering(model) as entered, prune(model, pruner, **texts) as run, entering(model) as left:
        pruned = _decode(model, inputs, steps)
    prompt = run.prompt
    if not prompt.pruned:
        raise Unproven(f"{pruner.label} dropped nothing on these inputs; verify with a smaller keep")
    merged = merged_states(prompt, entered, left)
    with hide(model, hidden_columns(prompt)), reading(model, inputs, prompt.rows), joining(model, merged):
        oracle = _decode(model, inputs, steps)
    with prune(model, pruner, "reassigned", **texts):
        control = _decode(model, inputs, steps)
    return Verification(
        pruner=_named(pruner),
        layers=_dropping(run),
        kept=[(len(kept), len(row.layout)) for kept, row in zip(run.kept, prompt.rows, strict=True)],
        steps=steps,
        keep_all_exact=all(torch.equal(a, b) for a, b in zip(whole.logits, stock.logits, strict=True)),
        difference=relative_difference(pruned.logits, oracle.logits),
        same_tokens=torch.equal(pruned.sequences, oracle.sequences),
        control=relative_difference(control.logits[:1], oracle.logits[:1]),
        tolerance=tolerance,
    )


def _dropping(run: Run) -> list[int]:
    """The layers of the stages that dropped anything."""
    counts = [(layer, sum(map(len, left))) for layer, left in run.stages]
    before = [sum(map(len, run.layout)), *(count for _, count in counts)]
    return [layer for (layer, count), earlier in zip(counts, before, strict=False) if count < earlier]


def relative_difference(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    """Largest |a - b| over the largest |b|, over all pairs.

    Args:
        a: tensors.
        b: as many, those that the scale is taken from.

    Returns:
        0 where all are equal; infinite where a pair differs in shape, or by NaN.
    """
    worst = 0.0
    for x, y in zip(a, b, strict=True):
        if x.shape != y.shape:
            return math.inf
        x, y = x.detach().float(), y.detach().float()
        if not x.equal(y):
            apart = float((x - y).abs().max() / y.abs().max())
            worst = math.inf if math.isnan(apart) else max(worst, apart)  # max() would pass over NaN
    return worst


def _decode(model: Any, inputs: dict[str, Any], steps: int) -> Any:
    """Greedy decoding of exactly `steps` tokens, with the logits of prefill and each step but the last."""
    return model.generate(
        **inputs,
        max_new_tokens=steps + 1,
        min_new_tokens=steps + 1,
        do_sample=False,
        num_beams=1,
        return_dict_in_generate=True,
        output_logits=True,
    )


def _named(pruner: Pruner) -> str:
    """With its options, which tell two of one class apart; a class that no text names goes by its own name."""
    try:
        return spec_of(pruner).short
    except GroundPruneError:
        return pruner.label
