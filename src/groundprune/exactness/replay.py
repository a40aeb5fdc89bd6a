"""What the pruned run's LLM read and merged, put into the unpruned run of the oracle."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from groundprune.families.base import family_of
from groundprune.probes.patching import replaced
from groundprune.pruning.prompt import PrunedPrompt, PrunedRow


@contextlib.contextmanager
def reading(model: Any, inputs: dict[str, Any], rows: Sequence[PrunedRow]) -> Iterator[None]:
    """While active, the LLM reads in the kept slots of the unpruned prompt what it read in the pruned one."""
    base = model.base_model
    running: set[int] = set()
    with contextlib.ExitStack() as stack:
        for modality, token in family_of(model.config).token_ids(model.config).items():
            index, features, start = [], [], 0
            for ids, row in zip(inputs["input_ids"], rows, strict=True):
                mine, kept = ids.cpu()[row.layout.column] == token, row.selection.kept
                index.append((start + (mine.cumsum(0) - 1)[kept[mine[kept]]]).to(row.features.device))
                features.append(row.features[mine[kept].to(row.features.device)])
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

    return _outermost(encode, encoder, running)


def _outermost(function: Callable[..., Any], original: Callable[..., Any], running: set[int]) -> Callable[..., Any]:
    """`function`, but `original` while another that shares `running` is under way in the same thread.

    Qwen3-VL's encoder of videos calls that of images, and only the call from outside is to be changed. What is
    returned has the signature of `original`: `generate` reads it to know which of its arguments go to the encoder.
    """

    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        thread = threading.get_ident()
        if thread in running:
            return original(*args, **kwargs)
        running.add(thread)
        try:
            return function(*args, **kwargs)
        finally:
            running.discard(thread)

    return call


@contextlib.contextmanager
def entering(model: Any) -> Iterator[dict[int, Tensor]]:
    """By layer the states [B, S, D] that the first forward inside of the context hands to it."""
    found: dict[int, Tensor] = {}
    with _before_layers(model, lambda index, states: found.setdefault(index, states) if index not in found else None):
        yield found


def merged_states(
    prompt: PrunedPrompt, entered: dict[int, Tensor], left: dict[int, Tensor]
) -> list[tuple[int, Tensor, Tensor, Tensor]]:
    """What stages inside of the LLM merged: (layer, rows, unpruned columns, states [n, D]) of the changed slots.

    entered: what each layer was given before its stage; left: after it.
    """
    found = []
    for previous, segment in zip(prompt.segments, prompt.segments[1:], strict=False):
        if segment.merged:
            take = previous.compaction.slots_of(segment.compaction.index)[..., None]
            before, after = entered[segment.layer], left[segment.layer]
            row, slot = (after != before.gather(1, take.expand_as(after))).any(-1).nonzero(as_tuple=True)
            found.append((segment.layer, row, segment.compaction.index[row, slot], after[row, slot]))
    return found


@contextlib.contextmanager
def joining(model: Any, merged: Sequence[tuple[int, Tensor, Tensor, Tensor]]) -> Iterator[None]:
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
