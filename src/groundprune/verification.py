"""Is pruning exact? The proof that a user can run on a model of their own.

Three facts. keep=1.0 is the stock model, to the bit. Pruning with preserved positions equals the UNPRUNED sequence
under an attention mask that hides the dropped tokens from all others (`hooks.masked`). And the control: with
reassigned positions that equality breaks, so the test can fail.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from groundprune.errors import GroundPruneError, Unproven
from groundprune.hooks.masked import hidden_columns, hide
from groundprune.pruners.base import Pruner
from groundprune.pruning import Run, prune
from groundprune.signals import TextEmbedder

TOLERANCE = 1e-5  # relative, fp32
CONTROL = 1e-2  # what the control must differ by at least


@dataclass(frozen=True)
class Verification:
    """What `verify` measured. Differences are of logits, the largest over all steps, relative to the oracle's.

    layers: where tokens were dropped, 0 = before the LLM. kept: of each row's visual tokens, in the end.
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
    def passed(self) -> bool:
        exact = self.keep_all_exact and self.same_tokens and self.difference <= self.tolerance
        return exact and self.control > CONTROL


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
    """Measure the three facts on `inputs` (what the processor gives: input_ids, attention_mask, pixel_values).

    steps: greedy tokens to decode beyond the prefill. The pruner must drop something, or there is nothing to prove.

    Raises Unproven where nothing was dropped or the pruner merges tokens, and GroundPruneError where the model is not
    in fp32: in half precision rounding alone exceeds the tolerance.
    """
    if model.dtype != torch.float32:
        raise GroundPruneError(
            f"exactness is measured in fp32; load the model with dtype=torch.float32, not {model.dtype}"
        )
    texts: dict[str, Any] = {"text": text, "text_tower": text_tower}
    stock = _decode(model, inputs, steps)
    with prune(model, replace(pruner, keep=1, tokens=None), **texts):
        whole = _decode(model, inputs, steps)
    with prune(model, pruner, **texts) as run:
        pruned = _decode(model, inputs, steps)
    prompt = run.prompt
    if not prompt.pruned:
        raise Unproven(f"{pruner.label} dropped nothing on these inputs; verify with a smaller keep")
    merges = any(row.selection.merge is not None for row in prompt.rows)
    if merges or any(segment.merged for segment in prompt.segments):
        raise Unproven(f"{pruner.label} merges tokens; the masked oracle covers pure selection")
    with hide(model, hidden_columns(prompt)):
        oracle = _decode(model, inputs, steps)
    with prune(model, pruner, "reassigned", **texts):
        control = _decode(model, inputs, steps)
    return Verification(
        pruner=pruner.label,
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
    """Largest |a - b| over the largest |b|, over all pairs; infinite where a pair differs in shape."""
    worst = 0.0
    for x, y in zip(a, b, strict=True):
        if x.shape != y.shape:
            return float("inf")
        worst = max(worst, float((x.float() - y.float()).abs().max() / y.float().abs().max()))
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
