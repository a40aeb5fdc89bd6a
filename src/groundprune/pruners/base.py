"""What a pruner is: a score over the visual tokens, or a rule for one pool of them. The base owns every invariant."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, ClassVar

import torch
from torch import Tensor

from groundprune.errors import GroundPruneError
from groundprune.pruners.invariants import check_merge, ordered
from groundprune.pruners.merging import Merged, joined
from groundprune.pruners.settling import refuse_if, settled
from groundprune.signals import TOWER_CLS, Need, Signals
from groundprune.tokens.budget import Budget, allot
from groundprune.tokens.layout import VisualLayout
from groundprune.tokens.selection import Selection, Stage

# (pool: Long[n], indices into the row's columns; count, below n) -> Long[count] or Merged, indices into the pool
Rule = Callable[[Tensor, int], Tensor | Merged]


@dataclass(frozen=True)
class Pruner:
    """Base of all pruners. A pruner of one's own writes `score`, or `rule` where a top-k of scores is not the rule.

    Args:
        keep: Share of the patches that stay, 0 < keep <= 1;
        tokens: or how many stay per image.

    Raises:
        GroundPruneError: Neither is given, both are, or a value is out of range.
    """

    keep: float | str | Fraction | None = None
    tokens: int | str | None = None
    budget: Budget = field(init=False, repr=False, compare=False)

    name: ClassVar[str] = ""
    needs: ClassVar[frozenset[Need]] = frozenset()
    reads_features: ClassVar[bool] = True  # False: it chooses on the CPU, and is given the layout there
    pool: ClassVar[str] = "tile"  # what `rule` chooses among: the patches of a "tile", or of an "image"
    merges_in: ClassVar[str | None] = None  # where it mixes features: "projected", "tower" or "hidden", see `Merge`
    official_positions: ClassVar[str] = "reassigned"  # what the method's authors' code does to position ids,
    official_by_model: ClassVar[Mapping[str, str]] = {}  # and by model type where their code for it does otherwise
    # What a catalogue says of the method: its arXiv number, the year of its first version, and what it scores by.
    paper: ClassVar[str] = ""
    year: ClassVar[int | None] = None
    scores_by: ClassVar[str] = ""

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
        raise GroundPruneError(f"{type(self).__name__} defines neither score, rule nor select")

    def rule(self, signals: Signals, layout: VisualLayout, stage: Stage) -> Rule:
        """How a pool of tokens is cut down to a count: by default to the largest scores."""
        score = checked_scores(self.label, self.score(signals, layout, stage), layout).float()

        def top(pool: Tensor, count: int) -> Tensor:  # ties go to the earlier token, on every device
            return score[pool].sort(descending=True, stable=True).indices[:count].sort().values

        return top

    def pools(self, layout: VisualLayout, stage: Stage) -> list[Tensor]:
        """The pools of patches, each Long[n], indices into the row's columns; together all of them."""
        return layout.groups(self.pool)

    def shares(
        self, signals: Signals, layout: VisualLayout, stage: Stage, pools: Sequence[Tensor], count: int
    ) -> list[int]:
        """How many of the `count` tokens each pool keeps: by default in proportion to their sizes."""
        return allot(count, [len(pool) for pool in pools])

    def select(self, signals: Signals, layout: VisualLayout, stage: Stage) -> Selection:
        """The tokens that stay: `rule` in each pool of its share; the columns that are no patches all stay."""
        pools = self.pools(layout, stage)
        count = stage.budget.count(len(layout.host.patches), layout.n_images)
        shares = self.shares(signals, layout, stage, pools, count)
        rule = self.rule(signals, layout, stage)
        found = [
            rule(pool, share) if 0 < share < len(pool) else torch.arange(share, device=pool.device)
            for pool, share in zip(pools, shares, strict=True)
        ]
        if any(isinstance(each, Merged) for each in found):
            cls = signals.tower_cls() if TOWER_CLS in self.needs else None
            return joined(layout, pools, found, self.merges_in or "projected", cls)
        kept = [pool[each] for pool, each in zip(pools, found, strict=True)]
        return Selection(torch.cat([layout.separators, *kept]).sort().values)

    def __call__(self, signals: Signals, layout: VisualLayout, stage: Stage) -> Selection:
        """`select` with the invariants: nothing to drop = nothing done; kept tokens ascending, unique, in range.

        What is kept is on the CPU, unless this is one of several rows that are read together, see `Settling`.
        """
        host = layout.host
        patches = len(host.patches)
        count = stage.budget.count(patches, host.n_images)
        if count >= patches:
            return Selection(torch.arange(len(layout)))
        try:
            selection = self.select(signals, layout if self.reads_features else host, stage)
        except SystemExit as error:  # a script of one's own must not end the program without a word
            raise GroundPruneError(f"{self.label} called exit({error.code!r}) while it chose tokens") from error
        return settled(
            _like_one(self.label, selection), lambda found: _checked(self.label, found, host, stage, count)
        )

    @property
    def label(self) -> str:
        return self.name or type(self).__name__


def checked_scores(label: str, given: object, layout: VisualLayout) -> Tensor:
    """The scores as a tensor. Raises GroundPruneError unless they are Float[N], finite at the patches."""
    try:
        score = torch.as_tensor(given, device=layout.column.device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise GroundPruneError(f"{label}.score must give a tensor of numbers (got {_told(given)})") from error
    if score.shape != (len(layout),):
        raise GroundPruneError(
            f"{label}.score must give one value per visual token: expected {(len(layout),)}, got {tuple(score.shape)}"
        )
    if score.is_complex():
        raise GroundPruneError(f"{label}.score must give real numbers (got {score.dtype})")
    odd = (~score.isfinite() & layout.is_patch).sum()
    refuse_if(
        odd > 0,
        lambda: GroundPruneError(
            f"{label}.score must give finite numbers: {int(odd)} of {len(layout.patches)} are NaN or infinite"
        ),
    )
    return score


def _like_one(label: str, given: object) -> Selection:
    """The selection. Raises GroundPruneError where it is none, or keeps what are no indices."""
    if not isinstance(given, Selection) or not isinstance(given.kept, Tensor):
        raise GroundPruneError(f"{label}.select must give a Selection of a tensor (got {_told(given)})")
    kept = given.kept
    if kept.ndim != 1 or kept.dtype not in (torch.int64, torch.int32):
        raise GroundPruneError(f"{label}: kept must be a row of indices (got {tuple(kept.shape)} of {kept.dtype})")
    return given


def _checked(label: str, given: Selection, layout: VisualLayout, stage: Stage, count: int) -> Selection:
    """The selection. Raises GroundPruneError unless it is ascending, unique, in range, and of `count` patches.

    All of it on the CPU but the merge.
    """
    kept = given.kept
    if not bool((kept[1:] > kept[:-1]).all() and ((kept >= 0) & (kept < len(layout))).all()):
        raise GroundPruneError(f"{label}: kept tokens must be ascending, unique and in range")
    patches = int(layout.is_patch[kept].sum())
    if patches != count and not stage.adaptive:
        raise GroundPruneError(f"{label} kept {patches} patches where {count} of {len(layout.patches)} are asked for")
    if given.merge is not None:
        check_merge(label, given.merge, stage)
    return given if given.order is None else ordered(label, given, layout)


def _told(value: object) -> str:
    return "None" if value is None else f"a {type(value).__name__}"
