"""What all pruned models share: images lose tokens behind the encoder, positions are those of the unpruned prompt.

vLLM asks for a prompt's positions when it admits it, before any image was encoded. Text gets its final ones then. A
kept visual token gets that of its image's first; how far it stands from it travels with its features, through every
cache of vLLM, and is added where the language model starts.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from vllm.distributed import get_pp_group, get_tp_group

from groundprune.integrations.vllm.image_pruning import ImagePruning, pack, unpack
from groundprune.integrations.vllm.requests import Requests
from groundprune.integrations.vllm.settings import KEY
from groundprune.integrations.vllm.spans import Span, columns, unpruned
from groundprune.integrations.vllm.tower_attention import agreed, read, recorded
from groundprune.signals import Need
from groundprune.version import __version__

_LOG = logging.getLogger("vllm.groundprune")  # below vLLM's, whose level and handlers it takes


class Pruned(nn.Module):
    """Mixin before a model class of vLLM."""

    # vLLM counts an adapter's tokens in the tower by those that an image has left.
    supports_tower_connector_lora = False

    prunes: ClassVar[type[ImagePruning]] = ImagePruning

    config: Any
    # Long[A, tokens of a batch + 1]: those of the visual tokens of the batch that runs, else zero; and then its
    # positions. A CUDA graph reads what it was captured with, where it was: no other tensor may take its place.
    offset: Tensor

    def __init__(self, *, vllm_config: Any, prefix: str = ""):
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        self.pruning = self.prunes(self.config)
        self.requests = Requests(self.pruning)
        self._encoding = self.pruning
        # One wider than any batch: a compiled model that first saw a slice without gaps would want none ever after.
        shape = (self.pruning.family.position_axes, vllm_config.scheduler_config.max_num_batched_tokens + 1)
        self.register_buffer("offset", torch.zeros(shape, dtype=torch.long), persistent=False)
        if get_tp_group().is_first_rank and get_pp_group().is_first_rank:  # one line for an engine
            settings, length = self.pruning.settings, vllm_config.model_config.max_model_len
            told = (__version__, settings, settings.positions, length, self.requests.limits.reach)
            _LOG.info("groundprune %s: %s, positions %s; prompts of up to %d slots and %d positions", *told)

    # What a model says of itself

    def tower_attention(self) -> nn.Module:
        """The attention of the tower block whose output the LLM reads."""
        raise NotImplementedError

    def arguments(self, images: Any) -> dict[str, Any]:
        """Of transformers' get_image_features, for a batch of images as vLLM has parsed it."""
        return {"pixel_values": images["pixel_values"]}

    def lengths(self, arguments: Mapping[str, Any]) -> list[int] | None:
        """Of the sequences that the tower packs into one; None where it gets a batch."""
        return None

    def of_images(self, value: Tensor, arguments: Mapping[str, Any]) -> Tensor:
        """What the tower gave, less what is of no image."""
        return value

    def all_of(self, image: Any, features: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
        """[L, C] of an image's range in the unpruned prompt, and Long of those that stay.

        features: [N, C] of its visual tokens; kept: Long[K], those of them that stay.
        """
        return features, kept

    def unpruned_positions(self, tokens: list[int], features: Sequence[Any]) -> tuple[Tensor, int]:
        """Long[3, L] and what is added to a generated token's index, of a prompt that lost nothing."""
        return torch.arange(len(tokens)).expand(3, -1), 0

    # Images

    def pruning_of(self, item: Mapping[str, Any]) -> ImagePruning:
        """By the settings of the image's request. item: what vLLM preprocessed of the image."""
        return self.requests.arrived(item[KEY].data if KEY in item else None)

    def embed_multimodal(self, **kwargs: Any) -> Any:
        """As the model does. All images of a batch have the same settings: those of others make another batch."""
        own: Any = super()
        self._encoding = self.requests.arrived(kwargs.pop(KEY, None))
        try:
            return own.embed_multimodal(**kwargs)
        finally:
            self._encoding = self.pruning

    def encoded(self, images: Any) -> Sequence[Tensor]:
        """[N, C] of each image, as the model itself makes them."""
        own: Any = super()
        return own._process_image_input(images)

    def with_all(self, features: Tensor) -> Tensor:
        """[N, C] -> [N, C + digits] of what loses nothing, see `pack`."""
        return pack(features, self.offset.new_zeros(len(self.offset), len(features)))

    def _process_image_input(self, image_input: Any) -> list[Tensor]:
        """[K, C + digits] of each image, see `pack`."""
        found = []
        for unit, mine, kept in self.chosen(image_input):
            whole, left = self.all_of(unit, mine, kept)
            offsets = self._encoding.offsets(unit, left)
            found.append(pack(whole[left], torch.zeros_like(offsets) if self._encoding.placed_early else offsets))
        return found

    def chosen(self, image_input: Any) -> list[tuple[Any, Tensor, Tensor]]:
        """Each image, its features [N, C], and Long[K], which of them stay."""
        pruning, arguments = self._encoding, self.arguments(image_input)
        with contextlib.ExitStack() as stack:
            calls = stack.enter_context(recorded(self.tower_attention())) if pruning.tower_needs else []
            features = self.encoded(image_input)
        values = {need: self._of_tokens(need, calls, arguments) for need in pruning.tower_needs}
        found = []
        for i, (unit, mine) in enumerate(zip(pruning.units(arguments), features, strict=True)):
            # Qwen3-VL's features for several layers of the LLM lie side by side; the first are its input.
            projected = mine[:, : self.config.get_text_config().hidden_size]
            kept = pruning.kept(unit, projected, {need: value[i] for need, value in values.items()})
            found.append((unit, mine, agreed(kept.to(mine.device))))
        return found

    def _of_tokens(self, need: Need, calls: Sequence[Any], arguments: Mapping[str, Any]) -> list[Tensor]:
        attention: Any = self.tower_attention()
        family, own = self.pruning.family, attention.num_heads
        sharded = own < tower_heads(self.config.vision_config)
        (call,) = calls
        value = read(call, need, family.tower_kind(self.config), self.lengths(arguments), sharded)
        return self.pruning.to_tokens(self.of_images(value, arguments), arguments)

    # Positions

    def get_mrope_input_positions(self, input_tokens: list[int], mm_features: Sequence[Any]) -> tuple[Tensor, int]:
        """Long[3, S], and the difference of a generated token's position and its slot."""
        features = sorted(mm_features, key=lambda feature: feature.mm_position.offset)
        images = [self.pruning_of(feature.data) for feature in features if feature.modality == "image"]
        if (images or [self.pruning])[0].renumbered:  # those of a request have the same settings
            return torch.arange(len(input_tokens)).expand(3, -1).contiguous(), 0
        spans = [self._span(feature) for feature in features]
        whole, starts = unpruned(input_tokens, spans)
        placed = [
            replace(feature, mm_position=replace(feature.mm_position, offset=start, length=span.total))
            for feature, start, span in zip(features, starts, spans, strict=True)
        ]
        position, delta = self.unpruned_positions(whole, placed)
        kept = columns(len(input_tokens), spans)
        return position[:, kept].contiguous(), delta + len(whole) - len(input_tokens)

    def _span(self, feature: Any) -> Span:
        start, count = feature.mm_position.offset, feature.mm_position.length
        if feature.modality != "image":
            return Span(start, count, count, torch.arange(count))
        if feature.mm_position.is_embed is not None:  # text stands around the placeholders, which are one run
            mine = feature.mm_position.is_embed.nonzero()
            start, count = start + int(mine[0]), len(mine)
        pruning = self.pruning_of(feature.data)
        (unit,) = pruning.units(pruning.arguments_of(feature.data))
        return Span(start, count, len(unit), pruning.settled_kept(unit) if pruning.settled else None)

    def embed_input_ids(
        self,
        input_ids: Tensor,
        multimodal_embeddings: Sequence[Tensor] | None = None,
        *,
        is_multimodal: Tensor | None = None,
    ) -> Tensor:
        """As the model does, with the offsets taken off the features and set aside for `forward`."""
        own: Any = super()
        self.offset.zero_()
        if multimodal_embeddings is not None and len(multimodal_embeddings) and is_multimodal is not None:
            multimodal_embeddings, offsets = unpack(multimodal_embeddings, len(self.offset))
            mine = self.offset[:, : len(input_ids)]
            mask = is_multimodal.to(mine.device, non_blocking=True).expand_as(mine)
            mine.copy_(mine.masked_scatter(mask, offsets))
        return own.embed_input_ids(input_ids, multimodal_embeddings, is_multimodal=is_multimodal)

    def forward(
        self,
        input_ids: Tensor | None,
        positions: Tensor,
        intermediate_tensors: Any = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        axes = len(self.offset)
        moved = self.offset[:, : positions.shape[-1]]
        moved += positions[:axes]  # the table has three axes for every model
        whole = moved if axes > 1 else moved[0]
        output = super().forward(input_ids, whole, intermediate_tensors, inputs_embeds, **kwargs)
        # A dummy batch, which nothing was embedded for, may be next.
        self.offset.zero_()
        return output


def tower_heads(vision: Any) -> int:
    """Attention heads of a tower, by its config."""
    return getattr(vision, "num_attention_heads", None) or vision.num_heads
