"""Is pruning exact? The proof that a user can run on a model of their own.

Three facts. keep=1.0 is the stock model, to the bit. Pruning with preserved positions equals the UNPRUNED sequence
under an attention mask that hides the dropped tokens from all others (`exactness.oracle`); where a pruner merges, the
oracle's kept slots read the merged features too. And the control: with reassigned positions that equality breaks, so
the test can fail.

Of layers with linear attention a mask says nothing: in these the oracle is the stock module on the kept tokens alone
(`exactness.stepping`), and `Verification.oracle` says so.

All is measured in fp32 (`exactness.widening`), where two such runs differ by some 1e-6. A quantised model may compute
more coarsely than that: where the difference is larger than `TOLERANCE`, what its arithmetic leaves to be proven is
measured on the model itself (`exactness.arithmetic`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from groundprune.errors import GroundPruneError, Unproven
from groundprune.exactness.arithmetic import (
    NOISE_FACTOR,
    PADDINGS,
    TOLERANCE,
    Arithmetic,
    comparable,
    measure_arithmetic,
    relative_difference,
)
from groundprune.exactness.oracle import hidden_columns, hide
from groundprune.exactness.replay import entering, joining, merged_states, reading
from groundprune.exactness.widening import in_fp32
from groundprune.families.linear import linear_layers
from groundprune.pruners.base import Pruner
from groundprune.pruners.spec import spec_of
from groundprune.pruning.context import Run, prune
from groundprune.pruning.wrapped import unwrapped
from groundprune.signals import TextEmbedder

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
        difference: of pruning from the oracle, up to the step at which they say different things.
        same_tokens: whether both said the same.
        control: by how much reassigned positions differ from the oracle.
        tolerance: the largest difference that counts as exact.
        arithmetic: of the model, measured where the difference is larger than fp32 explains; else None.
        linear_layers: those with linear attention, of which the masked oracle says nothing.
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
    arithmetic: Arithmetic | None = None
    linear_layers: Sequence[int] = ()

    @property
    def oracle(self) -> str:
        """What pruning was compared with, in words."""
        if not self.linear_layers:
            return "the unpruned prompt under a mask"
        return (
            f"masked oracle undefined: linear attention in layers {', '.join(map(str, self.linear_layers))}; "
            "these run on the kept tokens alone, the others on the unpruned prompt under a mask"
        )

    @property
    def exact(self) -> bool:
        """Whether the first two facts hold. A tie within a tolerance above fp32's may be broken either way."""
        same = self.same_tokens or self.tolerance > TOLERANCE
        return self.keep_all_exact and same and self.difference <= self.tolerance

    @property
    def doubt(self) -> str | None:
        """Why the oracle cannot tell on this model, in one line; None where it can."""
        if self.arithmetic is not None and self.arithmetic.across is not None:
            return (
                f"{self.arithmetic.across} rounds activations on a scale that tokens share: without the dropped ones "
                f"the others round differently, and a mask does not say how; they differ by {self.difference:.1e}"
            )
        if self.tolerance > CONTROL:
            return (
                f"the model computes too coarsely: a difference of {self.difference:.1e} cannot be told from its "
                f"rounding, {self.derivation}"
            )
        if self.exact and self.control <= max(CONTROL, self.tolerance):
            return "exact, but reassigned positions changed the logits too little to tell"
        return None

    @property
    def derivation(self) -> str:
        """Where the tolerance is from, in words."""
        if self.arithmetic is None:
            return f"tolerance {self.tolerance:.1e}"
        noise, step = self.arithmetic.noise, self.arithmetic.step
        return (
            f"tolerance {self.tolerance:.1e}: the largest of {TOLERANCE:g}, {NOISE_FACTOR} x {noise:.1e} (the same "
            f"prompt behind {', '.join(map(str, PADDINGS))} columns of padding) and {step:.1e} (one step of a layer)"
        )

    @property
    def verdict(self) -> str:
        """Of "ok", "FAILED", or "inconclusive": nothing can be told, see `doubt`."""
        if self.keep_all_exact and self.doubt is not None:
            return "inconclusive"
        return "ok" if self.exact else "FAILED"

    @property
    def passed(self) -> bool:
        """Whether all three do."""
        return self.verdict == "ok"


@torch.no_grad()
def verify(
    model: Any,
    inputs: dict[str, Any],
    pruner: Pruner,
    text: Sequence[str] | None = None,
    text_tower: str | Path | TextEmbedder | None = None,
    steps: int = 8,
    tolerance: float | None = None,
) -> Verification:
    """Measure whether pruning is exact: keep=1, the masked oracle, and the control that must differ.

    Measured in fp32, whatever the model is in: in half precision rounding alone exceeds the tolerance. For the time
    of the proof a model in half precision takes three times its memory.

    Quantised weights leave each token's result a function of that token, and the proof is as sharp as in fp32. Layers
    that round activations take larger steps: the tolerance then follows from the model's own noise, and where that
    reaches `CONTROL`, or where a scale is shared by tokens (LLM.int8's outlier columns, one scale per tensor), the
    verdict is "inconclusive" and `doubt` says why. Neither is read from a config: one token's states are made a
    hundred times larger, and the layer is asked whether the others' results change. 4-bit weights of bitsandbytes on
    a CPU are computed with in fp32 until their first forward, and in bf16 from then on: prove before you run.

    Args:
        model: a transformers model of a known family, or a wrapper of one.
        inputs: what the processor gives: input_ids Long[B, L], attention_mask, pixel_values, ...
        pruner: must drop something, or there is nothing to prove.
        text: for pruners that read the request, one entry per prompt row.
        text_tower: see `gp.prune`.
        steps: greedy tokens to decode beyond the prefill.
        tolerance: relative, of logits; by default `TOLERANCE`, or where the difference is larger what is measured.

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
    model: Any, inputs: dict[str, Any], pruner: Pruner, texts: dict[str, Any], steps: int, tolerance: float | None
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
    difference = relative_difference(*comparable(pruned, oracle))
    same = torch.equal(pruned.sequences, oracle.sequences)
    arithmetic = None
    if tolerance is None and (difference > TOLERANCE or not same):
        arithmetic = measure_arithmetic(model, inputs, lambda given: _decode(model, given, steps))
    if tolerance is None:
        tolerance = TOLERANCE if arithmetic is None else arithmetic.tolerance
    return Verification(
        pruner=_named(pruner),
        layers=_dropping(run),
        kept=[(len(kept), len(row.layout)) for kept, row in zip(run.kept, prompt.rows, strict=True)],
        steps=steps,
        keep_all_exact=all(torch.equal(a, b) for a, b in zip(whole.logits, stock.logits, strict=True)),
        difference=difference,
        same_tokens=same,
        control=relative_difference(control.logits[:1], oracle.logits[:1]),
        tolerance=tolerance,
        arithmetic=arithmetic,
        linear_layers=linear_layers(model.config),
    )


def _dropping(run: Run) -> list[int]:
    """The layers of the stages that dropped anything."""
    counts = [(layer, sum(map(len, left))) for layer, left in run.stages]
    before = [sum(map(len, run.layout)), *(count for _, count in counts)]
    return [layer for (layer, count), earlier in zip(counts, before, strict=False) if count < earlier]


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
