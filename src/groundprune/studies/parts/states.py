"""What a model makes of its visual tokens on the way: states behind every layer of tower and LLM, cell by cell."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from groundprune.errors import Unservable
from groundprune.families import family_of
from groundprune.families.base import Family
from groundprune.probes.tower import record_of
from groundprune.pruning.encoding import Encoded, encode_inputs
from groundprune.pruning.plan import unwrapped
from groundprune.signals import Need
from groundprune.tokens.layout import VisualLayout

TOWER, PROJECTOR, LLM = "tower", "projector", "llm"
_NO_TABLE, ZEROS, _LEARNED = "none", "all zeros", "learned"


@dataclass(frozen=True)
class Place:
    """Where states are read: layer k of the tower or the LLM is what its k-th block gives; k = 0 of the tower is
    what enters the first block, and the projector has layer 0 alone."""

    part: str
    layer: int

    def __str__(self) -> str:
        return self.part if self.part == PROJECTOR else f"{self.part} {self.layer}"

    @staticmethod
    def of(name: str) -> Place:
        """The place that `str` named."""
        part, _, layer = name.partition(" ")
        return Place(part, int(layer or 0))


def places(model: Any) -> list[Place]:
    """All places of a model, in the order in which a picture passes them."""
    model = unwrapped(model)
    blocks = len(_blocks(family_of(model.config), model.base_model))
    layers = model.config.get_text_config().num_hidden_layers
    tower = [Place(TOWER, k) for k in range(blocks + 1)]
    return [*tower, Place(PROJECTOR, 0), *(Place(LLM, k) for k in range(1, layers + 1))]


def feeding(model: Any) -> Place:
    """The place in the tower that the projector reads. Raises Unservable where it joins several."""
    model = unwrapped(model)
    return Place(TOWER, family_of(model.config).feature_layer(model.config) + 1)


def position_table(model: Any) -> str:
    """What the tower's table of position embeddings holds: "learned", "all zeros", or "none" where it has none."""
    model = unwrapped(model)
    named = family_of(model.config).tower(model.base_model).named_parameters()
    tables = [weight for name, weight in named if "position_embedding" in name]
    if not tables:
        return _NO_TABLE
    return _LEARNED if any(bool(table.any()) for table in tables) else ZEROS


@torch.no_grad()
def states(
    model: Any, batches: Iterable[dict[str, Any]], wanted: Sequence[Place]
) -> tuple[dict[Place, Tensor], tuple[int, int]]:
    """The states of every cell of every image, at several places of an unpruned model.

    Args:
        model: a transformers model of a known family.
        batches: what the processor gives, one image a prompt.
        wanted: places.

    Returns:
        Float[images, rows * cols, D] by place, on the CPU, cells in raster order; and (rows, cols).

    Raises:
        Unservable: an image is several grids of patches to the model, or two images are grids of different sizes.
    """
    model, found, grid = unwrapped(model), dict[Place, list[Tensor]](), None
    for inputs in batches:
        layouts, given = _passed(model, inputs, wanted)
        for b, layout in enumerate(layouts):
            cells, of = _cells(layout)
            if grid not in (None, of):
                raise Unservable(
                    "images are grids of different sizes to this model: their cells are no common classes"
                )
            grid = of
            for place in wanted:
                found.setdefault(place, []).append(given[place][b][cells].cpu())
    assert grid is not None  # there is a batch
    return {place: torch.stack(of) for place, of in found.items()}, grid


def _cells(layout: VisualLayout) -> tuple[Tensor, tuple[int, int]]:
    """Long[rows * cols]: the tokens in raster order; and the grid."""
    groups = layout.groups()
    if len(groups) != 1:
        raise Unservable("an image is several grids of patches to this model; positions are probed in one grid")
    rows, cols = layout.grid(groups[0])
    return groups[0][(layout.row * cols + layout.col)[groups[0]].argsort()], (rows, cols)


def _passed(
    model: Any, inputs: dict[str, Any], wanted: Sequence[Place]
) -> tuple[list[VisualLayout], dict[Place, Sequence[Tensor]]]:
    """Layouts of the prompts, and by place, per prompt, Float[N, D] over its visual columns."""
    family, base = family_of(model.config), model.base_model
    layers = {place: Need("tower_hidden", place.layer - 1) for place in wanted if place.part == TOWER and place.layer}
    position = _position(family, base, inputs)
    with _entering(family, base) as entered:
        rest = encode_inputs(base, family, inputs, frozenset(layers.values()))
    outputs = rest["mm_encoder_outputs"]
    encoded = Encoded(family, model.config, outputs, inputs["input_ids"], position)
    values = {place: record_of(outputs["image"]).values[need] for place, need in layers.items()}
    if (start := Place(TOWER, 0)) in wanted:
        values[start] = family.to_tokens(base, entered[0], "image", inputs)
    units = [layout.unit for layout in encoded.layouts]
    found: dict[Place, Sequence[Tensor]] = {
        place: [torch.cat([value[i] for i in unit]) for unit in units] for place, value in values.items()
    }
    found[Place(PROJECTOR, 0)] = encoded.features
    if any(place.part == LLM for place in wanted):
        ids = position if len(position) > 1 else position[0]
        hidden = model(
            **{**rest, "position_ids": ids}, output_hidden_states=True, use_cache=False, logits_to_keep=1
        ).hidden_states
        columns = [layout.column for layout in encoded.layouts]
        for k, value in enumerate(hidden):
            found[Place(LLM, k)] = [value[b, column] for b, column in enumerate(columns)]
    return encoded.layouts, found


def _position(family: Family, base: nn.Module, inputs: dict[str, Any]) -> Tensor:
    """Long[A, B, L]: as `generate` counts, without padding."""
    if family.position_axes == 1:
        inputs = {**inputs, "position_ids": (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)}
    return family.positions(base, inputs)


@contextlib.contextmanager
def _entering(family: Family, base: Any) -> Iterator[list[Tensor]]:
    """While active, what enters the tower's first block, in the form that `Family.to_tokens` takes."""
    found: list[Tensor] = []

    def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        value = args[0] if args else kwargs["hidden_states"]
        packed = family.tower_kind(base.config).packed
        found.append(value.reshape(-1, value.shape[-1]) if packed else value)

    hook = _blocks(family, base)[0].register_forward_pre_hook(keep, with_kwargs=True)
    try:
        yield found
    finally:
        hook.remove()


def _blocks(family: Family, base: Any) -> list[nn.Module]:
    return list(family.tower(base).get_submodule(family.tower_kind(base.config).layers).children())
