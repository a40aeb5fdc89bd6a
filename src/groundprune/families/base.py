"""What a model family tells the rest: where visual tokens lie, and how tower scores map to them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from groundprune.errors import Unservable, unknown
from groundprune.families.described import Described
from groundprune.families.linear import linear_layers
from groundprune.families.towers import TOWERS, Tower
from groundprune.signals import PROJECTOR, VIDEO, Need
from groundprune.tokens.layout import VisualLayout, VisualUnit, place_units


class Family(Described):
    """Base of all families: one short subclass per model type, stateless.

    The defaults describe a model whose tower sees each image as one square crop, one token a patch.
    """

    tower_path: ClassVar[str] = "vision_tower"  # of the tower in the base model
    position_axes: ClassVar[int] = 1  # of a token's position id: 3 for M-RoPE (time, height, width)
    unit_is_crop: ClassVar[bool] = False  # True: an image is a unit per crop, the last of which shows the whole
    bidirectional: ClassVar[bool] = False  # tokens of an image see later ones, so that a prompt cannot be cut
    first_position: ClassVar[int] = 0  # the id of a row's first column where the caller gives no position_ids
    # Why `project` cannot run, None where the projector takes tower states one by one; and whether the tower sees
    # several crops of what is one unit.
    unprojectable: ClassVar[str | None] = "the projector of {} joins several patches into a token"
    cropped: ClassVar[bool] = False

    # Where the visual tokens lie

    def token_ids(self, config: Any) -> dict[str, int]:
        """The placeholder of each modality that the model takes: "image", and "video" where it does."""
        return {"image": config.image_token_id}

    def positions(self, base: nn.Module, inputs: dict[str, Any]) -> Tensor:
        """Long[A, B, L]: the position ids that the unpruned model would use; A = 1, or 3 for M-RoPE."""
        ids, given = inputs["input_ids"], inputs.get("position_ids")
        if given is None:
            given = torch.arange(ids.shape[1], device=ids.device)[None] + self.first_position
        return given.expand(ids.shape[0], -1)[None]

    def units(self, base: Any, modality: str, arguments: dict[str, Any]) -> list[VisualUnit]:
        """What the encoder makes of `arguments`, in order.

        arguments: those of get_image_features or get_video_features; sizes and grids, which are whole numbers, are on
        the CPU.
        """
        if self.tower_kind(base.config).packed:
            kind = base.config.vision_config.model_type
            raise Unservable(f"{self.name} with a {kind!r} tower, which packs images of any size, is not served")
        pixels = arguments["pixel_values"]
        side = base.config.vision_config.image_size // base.config.vision_config.patch_size
        return [VisualUnit.grid(side, side, image) for image in pixels]

    def images_of(self, ids: Tensor, columns: Sequence[Tensor]) -> list[int]:
        """The image (from 0) that each unit of one row belongs to. ids: Long[L]; columns: of each unit."""
        return list(range(len(columns)))

    def layouts(
        self, config: Any, ids: Tensor, position: Tensor, units: dict[str, list[VisualUnit]]
    ) -> list[VisualLayout]:
        """One layout per row of ids: Long[B, L]; position: Long[A, B, L]; units by modality, in row order.

        Raises GroundPruneError where placeholders and units do not fit together.
        """
        return place_units(ids, position, units, self.token_ids(config), self.images_of, self.unit_is_crop)

    # What the tower gives to score by

    def tower(self, base: nn.Module) -> nn.Module:
        return base.get_submodule(self.tower_path)

    def tower_kind(self, config: Any) -> Tower:
        """Raises GroundPruneError, with the known ones, for a tower of another kind."""
        kind = config.vision_config.model_type
        if kind not in TOWERS:
            raise unknown("vision tower", kind, TOWERS)
        return TOWERS[kind]

    def windows(self, config: Any) -> list[int | None]:
        """The sliding window of each decoder layer in columns, None = it sees all."""
        text = config.get_text_config()
        window = getattr(text, "sliding_window", None)
        if not window or not getattr(text, "use_sliding_window", True):
            return [None] * text.num_hidden_layers
        types = getattr(text, "layer_types", None) or ["sliding_attention"] * text.num_hidden_layers
        return [window if kind == "sliding_attention" else None for kind in types]

    def feature_layer(self, config: Any) -> int:
        """Index of the tower block whose output the LLM reads."""
        index = getattr(config, "vision_feature_layer", -1)
        if not isinstance(index, int):
            raise Unservable(f"vision_feature_layer {index!r} joins several tower layers; one is supported")
        layers = config.vision_config.num_hidden_layers
        # hidden_states holds layers + 1 entries; entry i is the output of block i - 1.
        return layers + index if index < 0 else index - 1

    def to_tokens(self, base: Any, value: Tensor, modality: str, arguments: dict[str, Any]) -> list[Tensor]:
        """What a tower block gave -> per unit [P, ...] over its tokens; anything where `is_patch` is False.

        value: [crops, T, ...] in the tower's order, special tokens included; [T, ...] of all images where the
        tower packs them into one sequence. arguments: as for `units`.
        """
        return list(value[:, 1:] if self.tower_kind(base.config).cls else value)

    def project(self, base: nn.Module, hidden: Tensor) -> Tensor:
        """[K, C] tower states, one per token -> [K, D], as the model's own projector does.

        Raises Unservable where it does not take them one by one.
        """
        self.check(base.config, PROJECTOR)
        return base.get_submodule("multi_modal_projector")(hidden)

    def check(self, config: Any, need: Need) -> None:
        """Raises Unservable, with the reason, where models of this family cannot give a signal."""
        if need.signal == "llm" and linear_layers(config):
            raise Unservable(
                f"{self.name} has layers of linear attention: no attention rows to score by, and a state that "
                "dropped tokens cannot leave; prune before the LLM"
            )
        if need.signal in ("llm", "fingerprint"):
            return
        if need == PROJECTOR:
            if self.unprojectable is not None:
                raise Unservable(f"{self.unprojectable.format(self.name)}; a merge before it cannot run")
            return
        if need == VIDEO:
            if "video" not in self.token_ids(config):
                raise Unservable(f"{self.name} takes no videos")
            return
        tower, kind = self.tower_kind(config), config.vision_config.model_type
        self.feature_layer(config)
        if need.signal.startswith("clip") and kind != "clip_vision_model":
            raise Unservable(f"the signal '{need}' needs a CLIP vision tower; this model has {kind!r}")
        if need.kind in ("cls", "cls-joint") and not tower.cls:
            raise Unservable(f"the signal '{need}' needs a tower with a CLS token; this model's {kind!r} has none")
        if need.signal == "tower_hidden" and need.kind == "cls" and self.cropped:
            raise Unservable(
                f"the signal '{need}' needs a tower that sees each image once; that of {self.name} sees crops of it"
            )
        strategy = getattr(config, "vision_feature_select_strategy", None)
        if strategy is not None and tower.cls != (strategy == "default"):
            raise Unservable(
                f"vision_feature_select_strategy {strategy!r} is not supported with a {kind!r} tower "
                f"(allowed: {'default' if tower.cls else 'full'!r}, which keeps the patches and nothing else)"
            )


FamilyType = TypeVar("FamilyType", bound=Family)
_FAMILIES: dict[str, Family] = {}


def register_family(cls: type[FamilyType]) -> type[FamilyType]:
    """Class decorator: serve every model type that the family names.

    Args:
        cls: the family.

    Returns:
        The same class.
    """
    family = cls()
    for model_type in cls.model_types:
        _FAMILIES[model_type] = family
    return cls


def families() -> dict[str, Family]:
    """All families by name."""
    return {family.name: family for family in sorted(_FAMILIES.values(), key=lambda f: f.name)}


def family_of(config: Any) -> Family:
    """The family of a model.

    Args:
        config: the model's.

    Returns:
        Family.

    Raises:
        Unservable: a text-only model.
        GroundPruneError: an unknown model type.
    """
    model_type = getattr(config, "model_type", None)
    if model_type in _FAMILIES:
        return _FAMILIES[model_type]
    if not hasattr(config, "vision_config"):
        raise Unservable(
            f"model type {model_type!r} has no vision tower, so there are no visual tokens to prune "
            f"(known: {', '.join(sorted(_FAMILIES))})"
        )
    raise unknown("model type", str(model_type), _FAMILIES)
