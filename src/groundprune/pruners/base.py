"""What a pruner is: a score over the visual tokens, or a whole selection. This base owns every invariant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any, ClassVar

import torch
from torch import Tensor

from groundprune.errors import GroundPruneError
from groundprune.pruners.ranking import top
from groundprune.signals import Need, Signals
from groundprune.tokens.budget import Budget, allot
from groundprune.tokens.layout import VisualLayout
from groundprune.tokens.selection import Merge, Selection


@dataclass(frozen=True)
class Stage:
    """Where a pruner acts. layer None = before the LLM; `budget` is of the ORIGINAL number of patches.

    evict_earlier: also drop the dropped tokens' keys and values from the layers before `layer`. number: which of the
    pruner's stages it is, from 0. adaptive: the pruner decides how many stay, by what it reads; the budget says only
    whether anything is dropped.
    """

    layer: int | None
    budget: Budget
    evict_earlier: bool = False
    number: int = 0
    adaptive: bool = False


@dataclass(frozen=True)
class Pruner:
    """Base of all pruners. A pruner of one's own writes `score` and nothing else.

    keep: share of the patches that stay, 0 < keep <= 1; or tokens: how many stay per image.
    Raises GroundPruneError where neither, both, or a value out of range is given.
    """

    keep: float | str | Fraction | None = None
    tokens: int | str | None = None
    budget: Budget = field(init=False, repr=False, compare=False)

    name: ClassVar[str] = ""
    needs: ClassVar[frozenset[Need]] = frozenset()
    official_positions: ClassVar[str] = "reassigned"  # what the method's authors' code does to position ids,
    official_by_model: ClassVar[Mapping[str, str]] = {}  # and by model type where their code for it does otherwise
    # What a catalogue says of the method: its arXiv number, the year of its first version, what it scores by, and
    # whether it changes the features of the tokens that stay.
    paper: ClassVar[str] = ""
    year: ClassVar[int | None] = None
    scores_by: ClassVar[str] = ""
    merges: ClassVar[bool] = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "budget", Budget.parse(self.keep, self.tokens))

    def official(self, config: Any) -> str:
        """The position policy of the authors' code for a model of this config."""
        return self.official_by_model.get(config.model_type, self.official_positions)

    def for_model(self, config: Any) -> Pruner:
        """The pruner with what its authors set for a model of this config; by default itself."""
        return self

    def stages(self, n_layers: int) -> list[Stage]:
        """The stages, first to last; by default one, before the LLM."""
        return [Stage(None, self.budget)]

    @property
    def inside(self) -> bool:
        """Whether a stage of it acts between decoder layers."""
        return any(stage.layer is not None for stage in self.stages(32))

    def llm_layers(self, stages: Sequence[Stage]) -> frozenset[int]:
        """Decoder layers whose queries, keys and values must be kept until a stage reads them.

        By default those that `needs` names, and for a need without a layer the one before each stage. The stage's
        own layer can always be read.
        """
        wanted = [need.layer for need in self.needs if need.signal == "llm"]
        named = {layer for layer in wanted if isinstance(layer, int)}
        return frozenset(named | {stage.layer - 1 for stage in stages if stage.layer and None in wanted})

    def score(self, signals: Signals, layout: VisualLayout, stage: Stage) -> Tensor:
        """Float[N], larger = more worth keeping. Values at columns that are no patches are ignored."""
        raise GroundPruneError(f"{type(self).__name__} defines neither score nor select")

    def select(self, signals: Signals, layout: VisualLayout, stage: Stage) -> Selection:
        """The tokens that stay: by default the largest scores of each tile, budget in proportion to tiles."""
        given = self.score(signals, layout, stage)
        try:
            score = torch.as_tensor(given, device=layout.column.device)
        except (TypeError, ValueError, RuntimeError) as error:
            raise GroundPruneError(
                f"{self.label}.score must give a tensor of numbers (got {_told(given)})"
            ) from error
        if score.shape != (len(layout),):
            raise GroundPruneError(
                f"{self.label}.score must give one value per visual token: expected {(len(layout),)}, "
                f"got {tuple(score.shape)}"
            )
        if score.is_complex():
            raise GroundPruneError(f"{self.label}.score must give real numbers (got {score.dtype})")
        odd = int((~score[layout.is_patch].isfinite()).sum())
        if odd:
            raise GroundPruneError(
                f"{self.label}.score must give finite numbers: {odd} of {len(layout.patches)} are NaN or infinite"
            )
        return select_top(score, layout, stage.budget.count(len(layout.patches), layout.n_images))

    def __call__(self, signals: Signals, layout: VisualLayout, stage: Stage) -> Selection:
        """`select` with the invariants: nothing to drop = nothing done; kept tokens ascending, unique, in range."""
        every = torch.arange(len(layout), device=layout.column.device)
        count = stage.budget.count(len(layout.patches), layout.n_images)
        if count >= len(layout.patches):
            return Selection(every)
        try:
            selection = self.select(signals, layout, stage)
        except SystemExit as error:  # a script of one's own must not end the program without a word
            raise GroundPruneError(f"{self.label} called exit({error.code!r}) while it chose tokens") from error
        if not isinstance(selection, Selection) or not isinstance(selection.kept, Tensor):
            raise GroundPruneError(f"{self.label}.select must give a Selection of a tensor (got {_told(selection)})")
        if selection.kept.ndim != 1 or selection.kept.dtype not in (torch.int64, torch.int32):
            raise GroundPruneError(
                f"{self.label}: kept must be a row of indices (got {tuple(selection.kept.shape)} of "
                f"{selection.kept.dtype})"
            )
        kept = selection.kept.to(every.device)
        ascending = bool((kept[1:] > kept[:-1]).all()) and bool(((kept >= 0) & (kept < len(layout))).all())
        if not ascending:
            raise GroundPruneError(f"{self.label}: kept tokens must be ascending, unique and in range")
        if int(layout.is_patch[kept].sum()) != count and not stage.adaptive:
            raise GroundPruneError(
                f"{self.label} kept {int(layout.is_patch[kept].sum())} patches where {count} of "
                f"{len(layout.patches)} are asked for"
            )
        _check_space(selection.merge, stage, self.label)
        if selection.order is not None:
            order, image = selection.order.to(every.device), layout.image[kept]
            if sorted(order.tolist()) != list(range(len(kept))) or not image[order].equal(image):
                raise GroundPruneError(
                    f"{self.label}: order must name each of the {len(kept)} kept tokens once, one image after another"
                )
            selection = replace(selection, order=order)
        return selection

    @property
    def label(self) -> str:
        return self.name or type(self).__name__


def _told(value: object) -> str:
    return "None" if value is None else f"a {type(value).__name__}"


def _check_space(merge: Merge | None, stage: Stage, label: str) -> None:
    """Features exist before the LLM, states of its layers inside: a merge of the other kind would mix neither."""
    if merge is None or (merge.space == "hidden") == (stage.layer is not None):
        return
    allowed, where = (
        ("'projected' or 'tower' features", "before the LLM")
        if stage.layer is None
        else ("'hidden' states", f"at decoder layer {stage.layer}")
    )
    raise GroundPruneError(f"{label} merges in the space {merge.space!r} {where}, where only {allowed} can be merged")


def select_top(score: Tensor, layout: VisualLayout, count: int) -> Selection:
    """The `count` largest scores, shared over the tiles in proportion to their patches; stable on ties.

    score: Float[N]. Columns that are no patches stay. Raises GroundPruneError where a score is NaN.
    """
    groups = layout.groups()
    chosen = [~layout.is_patch]
    for group, share in zip(groups, allot(count, [len(g) for g in groups]), strict=True):
        mask = torch.zeros_like(layout.is_patch)
        mask[group[top(score[group], share)]] = True
        chosen.append(mask)
    return Selection(torch.stack(chosen).any(0).nonzero().squeeze(1))
