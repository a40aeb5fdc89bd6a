"""Prune before the LLM by editing the inputs of a stock model's forward; its modelling code runs unchanged.

Two places are replaced. `forward` of the whole model: on prefill the dropped placeholders leave input_ids, masks,
labels and position ids, and the matching rows leave the encoded images, which stock code then scatters. And
`prepare_inputs_for_generation`: `generate` keeps book of the UNPRUNED prompt, so each decode step's mask and
position ids are mapped to the compact cache there, outside of any compiled region.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from groundprune.errors import GroundPruneError, Unservable
from groundprune.hooks.encoded import Encoded, encode_inputs, has_visual
from groundprune.hooks.inside_llm import InsideLLM
from groundprune.hooks.patching import replaced
from groundprune.hooks.segments import make_segment
from groundprune.hooks.state import PrunedPrompt, PrunedRow, pruned, recall, remember, untouched
from groundprune.positions import Policy
from groundprune.pruners.base import Pruner, Selection, Stage
from groundprune.signals import Signals, TextEmbedder

if TYPE_CHECKING:
    from groundprune.families.base import Family

_OWNER = "groundprune_owner"
_PREPARED = "groundprune_prepared"  # marks the inputs of a decode step that `prepare` has mapped already


class BeforeLLM:
    """Hooks of one `gp.prune` context. `last` is the latest prefill's PrunedPrompt, None before the first.

    stage: None where all pruning happens between layers; `inside` is told of every prefill and decode step.
    """

    def __init__(
        self,
        model: Any,
        family: Family,
        pruner: Pruner,
        stage: Stage | None,
        policy: Policy,
        inside: InsideLLM,
        prompts: Sequence[str] | None = None,
        embedder: TextEmbedder | None = None,
    ):
        self.model, self.family = model, family
        self.pruner, self.stage, self.policy, self.inside = pruner, stage, policy, inside
        self.prompts, self.embedder = prompts, embedder
        self.last: PrunedPrompt | None = None
        self._fresh: PrunedPrompt | None = None
        self._drafting = False
        self._prompt_length: int | None = None  # while `generate` runs
        self._signature = inspect.signature(model.forward)
        self._lock = threading.RLock()  # what is under way belongs to one thread; others wait for it
        self.unread: set[int] = set()  # see `recording`

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """While active, the model prunes. Raises GroundPruneError where another context prunes it already."""
        original = self.model.prepare_inputs_for_generation
        if hasattr(original, _OWNER):
            raise GroundPruneError("this model is inside of a gp.prune context already; leave that one first")

        # wraps(): `generate` validates its arguments against this signature.
        @functools.wraps(original)
        def prepare(input_ids: Tensor, **kwargs: Any) -> dict[str, Any]:
            return self._prepare(original, input_ids, **kwargs)

        whole_generate = self.model.generate
        names = list(inspect.signature(whole_generate).parameters)

        @functools.wraps(whole_generate)
        def generate(*args: Any, **kwargs: Any) -> Any:
            given = {**dict(zip(names, args, strict=False)), **kwargs}
            config = given.get("generation_config") or self.model.generation_config
            if given.get("prefill_chunk_size", getattr(config, "prefill_chunk_size", None)) is not None:
                raise Unservable("prefill_chunk_size cuts prompts into pieces before they are pruned: leave it unset")
            if pruned(kwargs.get("past_key_values")):
                # Stock M-RoPE code would look for new images from the compact cache's length on, and find old ones.
                kwargs.pop("mm_token_type_ids", None)
            options = ("assistant_model", "prompt_lookup_num_tokens")
            drafting = any(given.get(name, getattr(config, name, None)) is not None for name in options)
            with self._lock:
                self._drafting = drafting
                try:
                    return whole_generate(*args, **kwargs)
                except BaseException:
                    self.unread.clear()
                    raise
                finally:
                    self._drafting, self._prompt_length = False, None
                    self.inside.clear()

        setattr(prepare, _OWNER, self)
        with (
            replaced(self.model, "prepare_inputs_for_generation", prepare),
            replaced(self.model, "generate", generate),
            # Not by hooks: some wrappers call `forward` past them.
            replaced(self.model, "forward", self._pruning(self.model.forward)),
            self.inside.active(),
        ):
            yield

    def _pruning(self, original: Callable[..., Any]) -> Callable[..., Any]:
        # A user's torch.compile takes what `original` runs, not the bookkeeping around it.
        uncompiled: Any = torch.compiler.disable  # its types know no method
        before, after = uncompiled(self._before_forward), uncompiled(self._after_forward)
        eager = uncompiled(self._eager)

        @functools.wraps(original)
        def forward(*args: Any, **kwargs: Any) -> Any:
            if kwargs.pop(_PREPARED, False):
                return original(*args, **kwargs)
            with self._lock:
                output = None
                try:
                    with eager():
                        output = original(**before(args, kwargs))
                except BaseException:
                    self.unread.clear()
                    raise
                finally:
                    after(output)
                return output

        return uncompiled(forward, recursive=False)

    def _eager(self) -> contextlib.AbstractContextManager[Any]:
        """What was compiled before knows no hook on a layer, and is passed over where the layers are to prune."""
        return torch.compiler.set_stance("force_eager") if self.inside.stages else contextlib.nullcontext()

    def _before_forward(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        self._fresh = None
        self.inside.clear()
        inputs = {**self._signature.bind_partial(*args).arguments, **kwargs}
        cache = inputs.get("past_key_values")
        past = 0 if cache is None else int(cache.get_seq_length())
        new = inputs.get("inputs_embeds") if inputs.get("input_ids") is None else inputs["input_ids"]
        state = recall(cache, past, 0 if new is None else len(new))
        if past and has_visual(inputs):
            return self._later_image(inputs, state, past)
        if past:
            return inputs if state is None else self._decode(inputs, state, past)
        if inputs.get("input_ids") is None:
            raise Unservable("pruning reads input_ids to find the visual tokens; inputs_embeds do not tell them")
        return self._prefill(inputs) if has_visual(inputs) else inputs

    def _after_forward(self, output: Any) -> None:
        """A prefill's state goes with the cache that holds its keys and values; output: None after an exception."""
        fresh, self._fresh = self._fresh, None
        if fresh is not None and output is not None:
            self.inside.check_ran()
        if fresh is not None or self._prompt_length is None:  # steps of `generate` may be compiled: it clears itself
            self.inside.clear()
        if fresh is None:
            return
        if fresh.pruned or fresh.earlier is not None or self.policy.changes_whole_rows:
            remember(output, fresh)

    def _prefill(self, inputs: dict[str, Any]) -> dict[str, Any]:
        ids, mask = inputs["input_ids"], inputs.get("attention_mask")
        if mask is not None and (not isinstance(mask, Tensor) or mask.ndim != 2):
            raise Unservable("pruning needs the 2-D attention mask [batch, length] on prefill")
        if torch.is_tensor(inputs.get("logits_to_keep")):
            raise Unservable("logits_to_keep as a tensor of columns does not survive pruning; give a number")
        position = self.family.positions(self.model.base_model, inputs)  # first: it may need what encoding uses up
        if not inputs.get("mm_encoder_outputs"):
            inputs = encode_inputs(self.model.base_model, inputs)
        encoded = Encoded(self.family, self.model.config, inputs["mm_encoder_outputs"], ids, position)
        self.unread -= encoded.numbers
        layouts = [encoded.layouts[b // encoded.copies] for b in range(len(ids))]
        chosen = self._select(encoded)

        valid = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()
        if not all(bool(valid[b, layout.column].all()) for b, layout in enumerate(layouts)):
            raise Unservable("attention_mask hides image placeholders; pruning chooses among all tokens of an image")
        selections = [selection for selection, _ in chosen]
        segment = make_segment(
            0, self.policy, position, valid, layouts, [s.kept for s in selections], [s.order for s in selections]
        )
        rows = []
        for b, (layout, (selection, features)) in enumerate(zip(layouts, chosen, strict=True)):
            mine = segment.compaction.mask[b]
            column, new = segment.compaction.index[b, mine], segment.position[:, b, mine]
            rows.append(PrunedRow(layout, selection, column, new, features))
        # Without ids of the caller's own the model counts columns, those of padding on the right included.
        counted = valid if inputs.get("position_ids") is not None else torch.ones_like(valid)
        next_position = torch.stack([position[:, b, counted[b]].max() + 1 for b in range(len(ids))])
        self.last = self._fresh = PrunedPrompt(rows, [segment], next_position)
        self.inside.begin(self.last, encoded, position, valid, self._later(inputs))
        if not self.last.pruned and not self.policy.changes_whole_rows:
            # Nothing was dropped: the stock model, to the bit. It would make M-RoPE ids of what encoding used up.
            made = len(position) == 1 or inputs.get("position_ids") is not None
            return inputs if made else {**inputs, "position_ids": position}
        if self.policy.splits_flash_sequences and "flash" in (
            self.model.config.get_text_config()._attn_implementation or ""
        ):
            raise Unservable(f"flash attention reads the ids of {self.policy} as packed sequences; use sdpa")
        return _compacted(inputs, self.last, encoded)

    def _later(self, inputs: dict[str, Any]) -> int:
        """How many columns of a prefill come after the prompt: what a pruner calls the last token is the prompt's.

        Drafted tokens are checked along with the prompt; without a cache every token that was said comes again.
        """
        if self._drafting:
            return int(inputs.get("logits_to_keep") or 1) - 1
        return inputs["input_ids"].shape[1] - (self._prompt_length or inputs["input_ids"].shape[1])

    def _later_image(self, inputs: dict[str, Any], state: PrunedPrompt | None, past: int) -> dict[str, Any]:
        """A turn with an image on a kept cache: it is pruned like a prompt, behind what the cache holds."""
        mask, ids = inputs.get("attention_mask"), inputs["input_ids"]
        rows, new = ids.shape
        if state is None:
            state = untouched(rows, past, None if mask is None else mask[:, :past])
        before = state.compaction
        length = before.length + past - before.slots
        if mask is not None and mask.shape != (rows, length + new):
            raise GroundPruneError(
                f"attention_mask must cover the unpruned columns, {(rows, length + new)}; got {tuple(mask.shape)}"
            )
        self.inside.check_later_image(length + new)
        held = before.grown_mask(mask, past - before.slots)
        position = inputs.get("position_ids")
        if position is None:
            start = state.next_position + past - before.slots
            position = start[:, None] + torch.arange(new, device=start.device)
        part = {**inputs, "attention_mask": None if mask is None else mask[:, length:], "position_ids": position}
        turn = self._prefill(part)
        assert self.last is not None
        turn["attention_mask"] = torch.cat([held, self.last.compaction.mask], dim=1).long()
        turn["position_ids"] = turn["position_ids"] + _per_row(state.shift, turn["position_ids"])
        self.last = self._fresh = self.last.behind(state, held)
        return turn

    def _select(self, encoded: Encoded) -> list[tuple[Selection, Tensor]]:
        """Per row the selection and the features of the kept slots."""
        layouts, copies, features = encoded.layouts, encoded.copies, encoded.features
        if self.prompts is not None and len(self.prompts) != len(layouts):
            raise GroundPruneError(
                f"text= must hold one entry per prompt row: {len(layouts)} rows, {len(self.prompts)} given"
            )
        chosen: list[tuple[Selection, Tensor]] = []
        for i, layout in enumerate(layouts):
            if self.stage is None:
                every = Selection(torch.arange(len(layout), device=layout.column.device))
                chosen += [(every, features[b]) for b in range(i * copies, (i + 1) * copies)]
                continue
            prompt = self.prompts[i] if self.prompts is not None else None
            signals = Signals(layout, features[i * copies], encoded.record, prompt, self.embedder)
            with torch.no_grad():
                selection = self.pruner(signals, layout, self.stage)
            for b in range(i * copies, (i + 1) * copies):
                chosen.append((selection, self._kept_features(features[b], selection, signals)))
        return chosen

    def _kept_features(self, features: Tensor, selection: Selection, signals: Signals) -> Tensor:
        merge = selection.merge
        if merge is None:
            return features[selection.kept]
        if merge.space == "tower":
            mixed = merge.weight @ signals.tower_hidden()
            new = self.family.project(self.model.base_model, mixed.to(features.dtype))
        else:
            new = (merge.weight @ features.float()).to(features.dtype)
        # Newlines have no place in the tower: they stay what they are.
        is_patch = signals.layout.is_patch[selection.kept, None]
        return torch.where(is_patch, new, features[selection.kept])

    def _prepare(self, original: Callable[..., dict[str, Any]], input_ids: Tensor, **kwargs: Any) -> dict[str, Any]:
        """What `generate` calls before every forward."""
        cache, mask = kwargs.get("past_key_values"), kwargs.get("attention_mask")
        past = 0 if cache is None else int(cache.get_seq_length())
        state = recall(cache, past, len(input_ids)) if past else None
        if kwargs.get("is_first_iteration"):
            self._prompt_length = input_ids.shape[1]
        if not past and mask is not None and has_visual(kwargs) and not bool(mask[:, -1].all()):
            raise Unservable("generate with pruning needs left padding: set tokenizer.padding_side = 'left'")
        if state is None:
            prepared = original(input_ids, **kwargs)
            if not past and cache is not None and cache.is_compileable:
                prepared["attention_mask"] = mask  # the 2-D mask: the pre-hook compacts it, stock code makes it 4-D
            return prepared
        compaction = state.compaction
        if kwargs.get("is_first_iteration") and kwargs.get("next_sequence_length") is not None:
            # A new turn on a kept cache: `generate` sliced the prompt by the compact cache's length.
            kwargs["next_sequence_length"] -= compaction.dropped
        new = kwargs.get("next_sequence_length") or input_ids.shape[1]
        if mask is not None or not bool(compaction.mask.all()):
            kwargs["attention_mask"] = compaction.grown_mask(mask, past + new - compaction.slots).long()
        prepared = original(input_ids, **kwargs)
        if has_visual(prepared):
            prepared["attention_mask"] = mask  # a new image: the pre-hook does the rest, from the unpruned book
            return prepared
        self.inside.clear()
        self.inside.step(state, mask, past, new, cache, prepared.get("position_ids"))
        if prepared.get("position_ids") is not None:
            prepared["position_ids"] = prepared["position_ids"] + _per_row(state.shift, prepared["position_ids"])
        prepared[_PREPARED] = True
        return prepared

    def _decode(self, inputs: dict[str, Any], state: PrunedPrompt, past: int) -> dict[str, Any]:
        """A decode step of a loop of the user's own, without `generate`."""
        compaction, ids = state.compaction, inputs.get("input_ids")
        new = (inputs["inputs_embeds"] if ids is None else ids).shape[1]
        tail = past + new - compaction.slots
        mask = inputs.get("attention_mask")
        if mask is None or (mask.ndim == 2 and mask.shape[1] == compaction.length + tail):
            self.inside.step(state, mask, past, new, inputs["past_key_values"], inputs.get("position_ids"))
            inputs["attention_mask"] = compaction.grown_mask(mask, tail).long()
        elif len(state.segments) > 1:
            raise GroundPruneError(
                f"attention_mask of a decode step must have {compaction.length + tail} columns (unpruned), "
                f"since layers hold different numbers of tokens; got {tuple(mask.shape)}"
            )
        elif mask.ndim != 2 or mask.shape[1] != compaction.slots + tail:
            raise GroundPruneError(
                f"attention_mask of a decode step must have {compaction.length + tail} columns (unpruned) or "
                f"{compaction.slots + tail} (compact); got {tuple(mask.shape)}"
            )
        if inputs.get("position_ids") is None:
            start = state.next_position + state.shift + past - compaction.slots
            inputs["position_ids"] = start[:, None] + torch.arange(new, device=start.device)
        else:
            inputs["position_ids"] = inputs["position_ids"] + _per_row(state.shift, inputs["position_ids"])
        return inputs


def _compacted(inputs: dict[str, Any], state: PrunedPrompt, encoded: Encoded) -> dict[str, Any]:
    """The inputs without the dropped columns. The caller's own objects are never changed."""
    compaction, position = state.compaction, state.segments[0].position
    new = dict(inputs)
    new["mm_encoder_outputs"] = encoded.pruned(state.rows, state.segments[0].kept)
    new["input_ids"] = compaction.gather(inputs["input_ids"])
    new["position_ids"] = position if len(position) > 1 else position[0]
    # Always explicit: with mask None, gaps in the ids would be read as packed sequences.
    new["attention_mask"] = compaction.mask.long()
    for name in ("token_type_ids", "mm_token_type_ids"):
        if new.get(name) is not None:
            # `generate` does not yet count drafted tokens in these; they are text, like the prompt's last.
            drafted = compaction.length - new[name].shape[1]
            new[name] = compaction.gather(torch.nn.functional.pad(new[name], (0, drafted), "replicate"))
    if new.get("labels") is not None:
        new["labels"] = compaction.gather(new["labels"], fill=-100)
    return new


def _per_row(shift: Tensor, position: Tensor) -> Tensor:
    """[B] -> [B, 1], which also fits the [axes, B, new] of M-RoPE position ids."""
    return shift[:, None].to(position.device)
