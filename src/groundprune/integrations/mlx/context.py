"""The context of `groundprune.integrations.mlx.prune`: embeddings lose tokens behind mlx-vlm's tower."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any, NoReturn

import mlx.core as mx
import torch
from mlx_vlm.apc import APCCoordinator
from mlx_vlm.generate.ar import BatchGenerator
from mlx_vlm.generate.common import PromptCacheState
from mlx_vlm.models.base import InputEmbeddingsFeatures
from mlx_vlm.models.qwen2_5_vl import Model
from torch import Tensor
from transformers import AutoConfig, AutoModelForImageTextToText
from transformers.modeling_outputs import BaseModelOutputWithPooling

from groundprune.errors import GroundPruneError, Unservable
from groundprune.families.base import family_of
from groundprune.integrations.mlx.tower import to_torch, watched
from groundprune.probes.patching import replaced
from groundprune.probes.states import fingerprint
from groundprune.probes.tower import RECORD_ATTRIBUTE, block_index, recordable
from groundprune.pruners.base import Pruner
from groundprune.pruners.registry import refusal
from groundprune.pruning.inputs import PrunedInputs, prune_inputs
from groundprune.pruning.plan import Plan
from groundprune.signals import FINGERPRINT, VIDEO, Need, TowerRecord
from groundprune.tokens.compaction import Policy
from groundprune.tokens.layout import VisualLayout

_VISION = (
    "depth", "hidden_size", "num_heads", "patch_size", "temporal_patch_size", "spatial_merge_size", "window_size",
    "fullatt_block_indexes", "out_hidden_size",
)  # fmt: skip
_TEXT = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "vocab_size")
_NO_WORDS = ("bos_token_id", "eos_token_id")  # nothing is generated


class Run:
    """What the latest prompt with images inside of the context became. Raises GroundPruneError before the first."""

    def __init__(self) -> None:
        self._latest: PrunedInputs | None = None

    @property
    def kept(self) -> list[Tensor]:
        """Long[K], in a list of the one prompt: which of its visual tokens stayed, ascending."""
        return self.inputs.kept

    @property
    def layout(self) -> list[VisualLayout]:
        """Where the prompt's visual tokens lie, in a list of one."""
        return self.inputs.layout

    @property
    def inputs(self) -> PrunedInputs:
        """All that became of it, as of `gp.prune_inputs`."""
        if self._latest is None:
            raise GroundPruneError("nothing was pruned yet: give a prompt with an image inside of the context")
        return self._latest


@contextlib.contextmanager
def pruned(model: Any, pruner: Pruner, positions: str | Policy) -> Iterator[Run]:
    """See `groundprune.integrations.mlx.prune`."""
    if not isinstance(model, Model):
        raise Unservable(f"of mlx-vlm's models Qwen2.5-VL is served; got {type(model).__module__}")
    if "get_input_embeddings" in vars(model):
        raise GroundPruneError("this model is pruned already: leave the first context before the next")
    given = weightless(model.config)
    _check(given.config, pruner)
    plan = Plan.of(given, pruner, positions, None, None)
    if plan.inside:
        raise Unservable(f"{pruner.label} prunes between the layers of the LLM, which is not done inside of mlx-vlm")
    run, stock = Run(), model.get_input_embeddings

    @functools.wraps(stock)
    def embeddings(input_ids: Any = None, pixel_values: Any = None, **given: Any) -> InputEmbeddingsFeatures:
        if given.get("pixel_values_videos") is not None:
            raise Unservable("videos are not pruned inside of mlx-vlm: leave the context for a prompt with one")
        if pixel_values is None:
            return stock(input_ids, pixel_values, **given)
        if input_ids.shape[0] > 1:
            _refuse_batch()
        grid = given["image_grid_thw"]
        features, record = _encoded(model, plan, pixel_values, grid)
        whole = stock(input_ids, pixel_values, **given | {"cached_image_features": features})
        run._latest = _shortened(plan, record, to_torch(features), input_ids, given.get("mask"), whole)
        return _without_dropped(run.inputs, whole)

    with contextlib.ExitStack() as stack:
        for owner, name, value in (
            (model, "get_input_embeddings", embeddings),
            (BatchGenerator, "insert", _refuse_batch),
            (APCCoordinator, "enabled", False),
            (PromptCacheState, "find_prefix_length", lambda state, ids: 0),
            (PromptCacheState, "update", lambda state, ids, cache: None),
        ):
            stack.enter_context(replaced(owner, name, value))
        yield run


def weightless(config: Any) -> Any:
    """The same model of transformers, as far as choosing asks, without weights."""
    given = AutoConfig.for_model(
        config.model_type,
        vision_config={name: getattr(config.vision_config, name) for name in _VISION},
        text_config={name: getattr(config.text_config, name) for name in _TEXT} | dict.fromkeys(_NO_WORDS),
        **{name: getattr(config, name) for name in ("image_token_id", "video_token_id")},
    )
    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(given)


def _check(config: Any, pruner: Pruner) -> None:
    """Raises Unservable for what is not read here, though transformers' model would give it."""

    def check(need: Need) -> None:
        if need.signal == "llm":
            raise Unservable(f"'{need}' is of layers of the LLM, between which nothing is pruned inside of mlx-vlm")
        if need == VIDEO:
            raise Unservable("videos are not pruned inside of mlx-vlm")
        family_of(config).check(config, need)

    for need in sorted(pruner.needs, key=str):
        try:
            check(need)
        except Unservable as error:
            raise refusal(pruner, error, check) from error


def _refuse_batch(*_: Any, **__: Any) -> NoReturn:
    raise Unservable(
        "inside of mlx-vlm one prompt at a time is pruned, by generate or stream_generate: batches, and its server, "
        "which batches, are not served"
    )


def _encoded(model: Any, plan: Plan, pixels: mx.array, grid: mx.array) -> tuple[mx.array, TowerRecord]:
    """[N, D], the features of all images, and what the pruner reads of the tower."""
    family, base = plan.family, plan.model.base_model
    needs = recordable(plan.pruner.needs) - {FINGERPRINT}
    where = {need: block_index(family, base.config, need, len(model.vision_tower.blocks)) for need in needs}
    with watched(model.vision_tower, set(where.values())) as blocks:
        dtype = model.vision_tower.patch_embed.proj.weight.dtype
        features = model.vision_tower(pixels.astype(dtype), grid, output_hidden_states=False)
    arguments = {"pixel_values": to_torch(pixels), "image_grid_thw": to_torch(grid)}
    units = family.units(base, "image", arguments)
    kind = family.tower_kind(base.config)
    values = {
        need: family.to_tokens(base, blocks[index].read(need, kind), "image", arguments)
        for need, index in where.items()
    }
    prints = [fingerprint(unit.pixels) for unit in units] if FINGERPRINT in plan.pruner.needs else []
    return features, TowerRecord(units, values, prints)


def _shortened(
    plan: Plan, record: TowerRecord, features: Tensor, ids: mx.array, mask: mx.array | None, whole: Any
) -> PrunedInputs:
    images: Any = BaseModelOutputWithPooling()
    images.pooler_output = list(features.split([len(unit) for unit in record.units]))
    setattr(images, RECORD_ATTRIBUTE, record)
    inputs = {
        "input_ids": to_torch(ids), "position_ids": to_torch(whole.position_ids),
        "mm_encoder_outputs": {"image": images},
    }  # fmt: skip
    if mask is not None:
        inputs["attention_mask"] = to_torch(mask)
    return prune_inputs(plan.model, inputs, plan.pruner, plan.policy)


def _without_dropped(short: PrunedInputs, whole: InputEmbeddingsFeatures) -> InputEmbeddingsFeatures:
    """What mlx-vlm's language model gets: embeddings [1, S, D], Long[3, 1, S], and how far ids are ahead of slots."""
    (row,), (output,) = short.prompt.rows, short["mm_encoder_outputs"].values()
    embeds = whole.inputs_embeds[:, mx.array(row.column.numpy())]
    visual = torch.isin(row.column, row.layout.column).nonzero().squeeze(1)
    embeds[:, mx.array(visual.numpy())] = mx.array(torch.cat(output.pooler_output).numpy()).astype(embeds.dtype)
    ahead = short.prompt.next_position + short.prompt.shift - len(row.column)
    return InputEmbeddingsFeatures(
        inputs_embeds=embeds,
        position_ids=mx.array(row.position[:, None].numpy()),
        rope_deltas=mx.array(ahead[:, None].numpy()),
    )
