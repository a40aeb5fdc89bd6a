"""`gp.prune`: a context in which a stock model prunes its visual tokens."""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from groundprune.errors import GroundPruneError, Unservable, unknown
from groundprune.families.base import Family, family_of
from groundprune.hooks.before_llm import BeforeLLM
from groundprune.hooks.encoded import Encoded, encode_inputs
from groundprune.hooks.inside_llm import InsideLLM
from groundprune.hooks.state import PrunedPrompt, PrunedRow
from groundprune.hooks.tower import RECORD_ATTRIBUTE, recordable, recording
from groundprune.hooks.unwrapping import uncompiled, unwrapped
from groundprune.layout import VisualLayout
from groundprune.positions import Policy, parse_policy
from groundprune.pruners.base import Pruner
from groundprune.pruners.registry import refusal
from groundprune.signals import CLIP_PATCHES, CLIP_TEXT, TextEmbedder, TowerRecord
from groundprune.text_tower import find_text_tower

WINDOWS = ("positions", "tokens")


class Run:
    """What the latest prefill inside of a `gp.prune` context did; one entry per prompt row (beams included)."""

    def __init__(self, hooks: BeforeLLM):
        self._hooks = hooks

    @property
    def rows(self) -> list[PrunedRow]:
        return self.prompt.rows

    @property
    def kept(self) -> list[Tensor]:
        """Long[K] per row: which of the row's visual tokens stayed to the end (indices into its layout), in sequence.

        They ascend, unless the position policy is `official` and the method's authors emit them in another order.
        """
        return list(self.prompt.segments[-1].kept)

    @property
    def prompt(self) -> PrunedPrompt:
        """All that became of the prefill. Raises GroundPruneError before the first one with an image."""
        if self._hooks.last is None:
            raise GroundPruneError("nothing was pruned yet: call the model with an image inside of the context")
        return self._hooks.last

    @property
    def stages(self) -> list[tuple[int, list[Tensor]]]:
        """What each stage left: (the first decoder layer that saw no more, Long[K] per row); layer 0 = before."""
        return [(segment.layer, list(segment.kept)) for segment in self.prompt.segments]

    @property
    def layout(self) -> list[VisualLayout]:
        """Where each row's visual tokens lie in the image."""
        return [row.layout for row in self.rows]


@contextlib.contextmanager
def prune(
    model: Any,
    pruner: Pruner,
    positions: str | Policy = "preserved",
    text: Sequence[str] | None = None,
    text_tower: str | Path | TextEmbedder | None = None,
    window: str = "positions",
) -> Iterator[Run]:
    """Inside of this context `model.generate(...)` and `model(...)` prune visual tokens, before the LLM or inside.

    model: a transformers model of a known family, bare or in PEFT, `torch.compile` or DistributedDataParallel; calls
    of the wrapper and of the model inside are pruned alike, one thread at a time.
    positions: a policy, see `groundprune.positions.FORMS`.
    text: for pruners that read it, one entry per prompt row. text_tower: folder or Hub id of the CLIP checkpoint
    that the model's vision tower came from; by default the `clip` folder of the model's own checkpoint.
    window: what sliding windows count: "positions", columns of the unpruned prompt, which is exact; or "tokens",
    those that are left, as stock code does, so that windows reach further back.

    Only calls of `model` itself are pruned, not of `model.model`; where an image was encoded inside of the context
    and no pruned call read it, a warning on leaving says so. A cache that was filled inside of the context belongs
    to it: go on with it inside of one.

    Raises Unservable where the model cannot give what the pruner needs, and GroundPruneError for an unknown policy
    or a context inside of a context. Leaving the context leaves the model as it was, also after an exception.
    """
    if not isinstance(pruner, Pruner):
        raise GroundPruneError(f"pruner must be a Pruner, such as gp.ClsVisual(keep=0.5); got {pruner!r}")
    given, model = model, unwrapped(model)
    family = family_of(model.config)
    pruner = pruner.for_model(model.config)
    policy = parse_policy(positions, pruner.official(model.config))
    if window not in WINDOWS:
        raise unknown("window", window, WINDOWS)
    stages = pruner.stages(model.config.get_text_config().num_hidden_layers)
    before = [stage for stage in stages if stage.layer is None]
    if len(before) > 1 or stages[: len(before)] != before:
        raise GroundPruneError(f"{pruner.label}: one stage before the LLM at most, and first")
    embedder = _check_needs(family, model, pruner, text, text_tower)
    exact = window == "positions"
    inside = InsideLLM(model, pruner, stages[len(before) :], policy, exact, text, embedder)
    hooks = BeforeLLM(model, family, pruner, before[0] if before else None, policy, inside, text, embedder)
    recorded = recording(model.base_model, family, recordable(pruner.needs))
    with recorded as hooks.unread, hooks.active(), uncompiled(given):
        yield Run(hooks)
    if hooks.unread:
        warnings.warn(
            f"{pruner.label} did not prune every image: in {len(hooks.unread)} call(s) inside of the gp.prune "
            "context images were encoded that no pruned call read; call the model that was given to gp.prune",
            stacklevel=3,
        )


def _check_needs(
    family: Family,
    model: Any,
    pruner: Pruner,
    text: Sequence[str] | None,
    text_tower: str | Path | TextEmbedder | None,
) -> TextEmbedder | None:
    check = functools.partial(family.check, model.config)
    for need in sorted(pruner.needs, key=str):
        try:
            check(need)
        except Unservable as error:
            raise refusal(pruner, error, check) from error
    if CLIP_TEXT in pruner.needs and text is None:
        raise Unservable(f"{pruner.label} reads the prompt's text: pass text=[...], one entry per prompt row")
    if not pruner.needs & {CLIP_TEXT, CLIP_PATCHES}:
        return None
    embedder = find_text_tower(text_tower, model)
    if embedder is None:
        raise Unservable(
            f"{pruner.label} needs a CLIP text tower and this checkpoint has none: pass text_tower=folder or Hub id "
            "(on the command line --text-tower) of the CLIP model whose vision tower this is"
        )
    return embedder


class EncodedImages:
    """Prompts whose images went through tower and projector once, to be pruned many times.

    `select(rows)` gives what `model.generate(mm_encoder_outputs=...)` takes for these prompt rows. They are held on
    the CPU: a GPU has better use for its memory, and a batch is there in a moment.
    """

    def __init__(
        self,
        rows: Sequence[tuple[Tensor, list[Tensor], TowerRecord]],
        output_type: type,
        stacked: bool,
        device: torch.device | str,
    ):
        self._rows, self._output_type, self._stacked, self._device = list(rows), output_type, stacked, device

    def __len__(self) -> int:
        return len(self._rows)

    def select(self, rows: Sequence[int], device: torch.device | str | None = None) -> dict[str, Any]:
        """A fresh `mm_encoder_outputs` of these prompts, in this order; `generate` may change it freely.

        device: where to, by default where the images were encoded.
        """
        device = self._device if device is None else device
        chosen = [self._rows[i] for i in rows]
        record = _moved(TowerRecord.join([record for _, _, record in chosen]), device)
        sizes = [len(unit) for unit in record.units]
        features = list(torch.cat([features for features, _, _ in chosen]).to(device).split(sizes))
        record.entries = len(features)
        output = self._output_type(pooler_output=torch.stack(features) if self._stacked else features)
        if chosen[0][1]:
            levels = zip(*(levels for _, levels, _ in chosen), strict=True)
            output.deepstack_features = [list(torch.cat(level).to(device).split(sizes)) for level in levels]
        setattr(output, RECORD_ATTRIBUTE, record)
        return {"image": output}

    @staticmethod
    def join(parts: Sequence[EncodedImages]) -> EncodedImages:
        """One batch after another, as one."""
        rows = [row for part in parts for row in part._rows]
        return EncodedImages(rows, parts[0]._output_type, parts[0]._stacked, parts[0]._device)


@torch.no_grad()
def encode(model: Any, inputs: dict[str, Any], pruners: Iterable[Pruner]) -> EncodedImages:
    """Run the vision tower once over the images of `inputs` and record what all of `pruners` score by.

    inputs: what the processor gives, input_ids and images. Raises Unservable where the model cannot give what one
    of the pruners needs, and for videos.
    """
    model = unwrapped(model)
    family = family_of(model.config)
    needs = frozenset().union(*(pruner.needs for pruner in pruners))
    for need in sorted(needs, key=str):
        family.check(model.config, need)
    inputs = dict(inputs)
    position = family.positions(model.base_model, inputs)
    with recording(model.base_model, family, recordable(needs)):
        outputs = encode_inputs(model.base_model, inputs)["mm_encoder_outputs"]
    if list(outputs) != ["image"]:
        raise Unservable(f"only images are encoded ahead of time (got: {', '.join(outputs) or 'none'})")
    encoded = Encoded(family, model.config, outputs, inputs["input_ids"], position)
    output, rows, start = outputs["image"], [], 0
    levels = [torch.cat(list(level)) for level in getattr(output, "deepstack_features", None) or []]
    for features, layout in zip(encoded.features, encoded.layouts, strict=True):
        mine = [level[start : start + len(layout)] for level in levels]
        record = _moved(encoded.record.select(layout.unit, len(layout.unit)), "cpu")
        # Their fingerprints are taken; on their own the pixels would outweigh the features.
        record.units = [replace(unit, pixels=unit.pixels.new_empty(0)) for unit in record.units]
        rows.append((features.cpu(), [level.cpu() for level in mine], record))
        start += len(layout)
    return EncodedImages(rows, type(output), torch.is_tensor(output.pooler_output), inputs["input_ids"].device)


def _moved(record: TowerRecord, device: torch.device | str) -> TowerRecord:
    values = {need: [value.to(device) for value in of] for need, of in record.values.items()}
    return replace(record, values=values)
