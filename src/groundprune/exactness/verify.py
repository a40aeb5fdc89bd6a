"""Is pruning exact? The proof that a user can run on a model of their own.

Three facts. keep=1.0 is the stock model, to the bit. Pruning with preserved positions equals the UNPRUNED sequence
under an attention mask that hides the dropped tokens from all others (`exactness.oracle`); where a pruner merges, the
oracle's kept slots read the merged features too. And the control: with reassigned positions that equality breaks, so
the test can fail.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from groundprune.errors import Unproven
from groundprune.exactness.oracle import hidden_columns, hide
from groundprune.families.base import family_of
from groundprune.probes.patching import outermost, replaced
from groundprune.pruners.base import Pruner
from groundprune.pruning.context import Run, prune
from groundprune.pruning.plan import unwrapped
from groundprune.pruning.prompt import PrunedPrompt, PrunedRow
from groundprune.signals import TextEmbedder

TOLERANCE = 1e-5  # relative, fp32
CONTROL = 1e-2  # what the control must differ by at least


@dataclass(frozen=True)
class Verification:
    """What `verify` measured. Differences are of logits, the largest over all steps, relative to the oracle's.

    Attributes:
        pruner: its name.
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
    with _entering(model) as entered, prune(model, pruner, **texts) as run, _entering(model) as left:
        pruned = _decode(model, inputs, steps)
    prompt = run.prompt
    if not prompt.pruned:
        raise Unproven(f"{pruner.label} dropped nothing on these inputs; verify with a smaller keep")
    merged = _merged_states(prompt, entered, left)
    with hide(model, hidden_columns(prompt)), _reading(model, inputs, prompt.rows), _joining(model, merged):
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


@contextlib.contextmanager
def _reading(model: Any, inputs: dict[str, Any], rows: Sequence[PrunedRow]) -> Iterator[None]:
    """While active, the LLM reads in the kept slots of the unpruned prompt what it read in the pruned one."""
    base = model.base_model
    running: set[int] = set()
    with contextlib.ExitStack() as stack:
        for modality, token in family_of(model.config).token_ids(model.config).items():
            index, features, start = [], [], 0
            for ids, row in zip(inputs["input_ids"], rows, strict=True):
                mine, kept = ids[row.layout.column] == token, row.selection.kept
                index.append(start + (mine.cumsum(0) - 1)[kept[mine[kept]]])
                features.append(row.features[mine[kept]])
                start += int(mine.sum())
            if start:
                name = f"get_{modality}_features"
                encode = _with_features(getattr(base, name), torch.cat(index), torch.cat(features), running)
                stack.enter_context(replaced(base, name, encode))
        yield


def _with_features(
    encoder: Callable[..., Any], index: Tensor, features: Tensor, running: set[int]
) -> Callable[..., Any]:
    """The encoder with other features at `index`: Long[K], among all that it gives for a batch."""

    def encode(*args: Any, **kwargs: Any) -> Any:
        output = encoder(*args, **kwargs)
        given = output.pooler_output
        flat = torch.cat([each.flatten(0, -2) for each in given]).index_copy(0, index, features)
        parts = flat.split([each.shape[:-1].numel() for each in given])
        output.pooler_output = flat.view_as(given) if torch.is_tensor(given) else list(parts)
        return output

    return outermost(encode, encoder, running)


@contextlib.contextmanager
def _entering(model: Any) -> Iterator[dict[int, Tensor]]:
    """By layer the states [B, S, D] that the first forward inside of the context hands to it."""
    found: dict[int, Tensor] = {}
    with _before_layers(model, lambda index, states: found.setdefault(index, states) if index not in found else None):
        yield found


def _merged_states(
    prompt: PrunedPrompt, entered: dict[int, Tensor], left: dict[int, Tensor]
) -> list[tuple[int, Tensor, Tensor, Tensor]]:
    """What stages inside of the LLM merged: (layer, rows, unpruned columns, states [n, D]) of the changed slots.

    entered: what each layer was given before its stage; left: after it.
    """
    found = []
    for previous, segment in zip(prompt.segments, prompt.segments[1:], strict=False):
        if segment.merged:
            take = segment.compaction.slots_in(previous.compaction)[..., None]
            before, after = entered[segment.layer], left[segment.layer]
            row, slot = (after != before.gather(1, take.expand_as(after))).any(-1).nonzero(as_tuple=True)
            found.append((segment.layer, row, segment.compaction.index[row, slot], after[row, slot]))
    return found


@contextlib.contextmanager
def _joining(model: Any, merged: Sequence[tuple[int, Tensor, Tensor, Tensor]]) -> Iterator[None]:
    """While active, prefills of the unpruned prompt take these states on their way through the layers."""
    by_layer = {layer: rest for layer, *rest in merged}

    def join(index: int, states: Tensor) -> Tensor | None:
        if index not in by_layer or states.shape[1] == 1:
            return None
        row, column, new = by_layer[index]
        return states.index_put((row, column), new)

    with _before_layers(model, join):
        yield


@contextlib.contextmanager
def _before_layers(model: Any, act: Callable[[int, Tensor], Tensor | None]) -> Iterator[None]:
    """act(layer, states) before each decoder layer; what it gives takes the place of the states."""

    def hook(index: int, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        states = args[0] if args else kwargs["hidden_states"]
        new = act(index, states)
        rest = {name: value for name, value in kwargs.items() if name != "hidden_states"}
        return None if new is None else ((new, *args[1:]), rest)

    with contextlib.ExitStack() as stack:
        for index, layer in enumerate(model.get_decoder().layers):
            call = functools.partial(hook, index)
            stack.callback(layer.register_forward_pre_hook(call, with_kwargs=True).remove)
        yield


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
