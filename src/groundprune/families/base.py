"""What a model family tells the rest: where visual tokens lie, how tower scores map to them, how it says boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from groundprune.errors import GroundPruneError, Unservable, unknown
from groundprune.layout import VisualLayout
from groundprune.signals import Need


@dataclass(frozen=True)
class Grounding:
    """How a checkpoint is asked for a box, and how it answers.

    rec_prompt and vqa_prompt hold {expression} and {question}; codec and frame are names in `groundprune.boxes`.
    """

    rec_prompt: str
    vqa_prompt: str
    codec: str
    frame: str


class Family:
    """Base of all families: one short subclass per model type, stateless."""

    name: ClassVar[str]
    model_types: ClassVar[tuple[str, ...]]
    grounding: ClassVar[Grounding]

    def image_token_id(self, config: Any) -> int:
        return config.image_token_id

    def positions(self, base: nn.Module, inputs: dict[str, Any]) -> Tensor:
        """Long[A, B, L]: the position ids that the unpruned model would use."""
        given = inputs.get("position_ids")
        ids = inputs["input_ids"]
        if given is None:
            given = torch.arange(ids.shape[1], device=ids.device)[None]
        return given.expand(ids.shape[0], -1)[None]

    def layouts(self, config: Any, input_ids: Tensor, position: Tensor) -> list[VisualLayout]:
        """One layout per row of input_ids: Long[B, L]; position: Long[A, B, L]."""
        raise NotImplementedError

    def tower(self, base: nn.Module) -> nn.Module:
        raise NotImplementedError

    def tower_layers(self, base: nn.Module) -> Sequence[nn.Module]:
        """The tower's blocks, first to last."""
        raise NotImplementedError

    def tower_attention_module(self, layer: nn.Module) -> nn.Module:
        """The module of a block that calls the attention function."""
        raise NotImplementedError

    def feature_layer(self, config: Any) -> int:
        """Index of the tower block whose output the LLM reads."""
        raise NotImplementedError

    def to_tokens(self, value: Tensor, images: Sequence[int]) -> Tensor:
        """[all images, T, ...] in tower order -> [N, ...] over the visual columns of one row's images."""
        raise NotImplementedError

    def project(self, base: nn.Module, hidden: Tensor) -> Tensor:
        """[K, C] tower states -> [K, D], as the model's own projector does."""
        raise NotImplementedError

    def prepare_processor(self, processor: Any) -> Any:
        """The checkpoint's processor with the preprocessing that `grounding.frame` describes."""
        return processor

    def check(self, config: Any, need: Need) -> None:
        """Raises Unservable, with the reason, where models of this family cannot give a signal."""
        raise NotImplementedError


_FAMILIES: dict[str, Family] = {}


def register_family(cls: type[Family]) -> type[Family]:
    """Class decorator: serve every model type that the family names."""
    for model_type in cls.model_types:
        _FAMILIES[model_type] = cls()
    return cls


def family_of(config: Any) -> Family:
    """The family of a model's config. Raises Unservable for a text-only or unknown model type."""
    model_type = getattr(config, "model_type", None)
    if model_type in _FAMILIES:
        return _FAMILIES[model_type]
    if not hasattr(config, "vision_config"):
        raise Unservable(
            f"model type {model_type!r} has no vision tower, so there are no visual tokens to prune "
            f"(known: {', '.join(sorted(_FAMILIES))})"
        )
    raise unknown("model type", str(model_type), _FAMILIES)


def require_multiple(columns: int, per_image: int) -> int:
    """Number of images that `columns` placeholders stand for. Raises GroundPruneError where it is no whole number."""
    images, rest = divmod(columns, per_image)
    if rest:
        raise GroundPruneError(f"{columns} image placeholders in a row are no multiple of {per_image} per image")
    return images
