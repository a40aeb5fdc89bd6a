"""Which tokens stay is decided with the truth in hand: regions of the image that are kept first, or dropped first.

A region is made of tokens, see `REGIONS`. How many stay is as without the intervention (`forced`), or as many are
dropped as a region has, out of that one alone (`dropping`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from groundprune.errors import GroundPruneError, Unservable, unknown
from groundprune.evaluation.interventions import Intervention, Truths
from groundprune.pruners.base import Pruner, Rule, checked_scores
from groundprune.pruners.ranking import others, top_by_tier
from groundprune.signals import Signals
from groundprune.tokens.layout import VisualLayout
from groundprune.tokens.positions import Policy
from groundprune.tokens.selection import Selection, Stage

REGIONS = ("any", "target", "border", "centre", "outline", "distractors", "background")
OF_OTHERS = ("distractors", "background")  # what the boxes of everything else tell
TOUCHED = 0.01  # share of a patch's area: less of a box than this shows nothing of what is in it


def regions(target: Tensor, other: Tensor, row: Tensor, col: Tensor, is_patch: Tensor) -> dict[str, Tensor]:
    """The parts of an image that its tokens show.

    Args:
        target: Float[N], how much of each patch lies in the box that is asked for, see `Truths.covered`.
        other: Float[N], likewise of the boxes of everything else, the most of any.
        row: Long[N], the patch's row; one grid.
        col: Long[N].
        is_patch: Bool[N].

    Returns:
        Bool[N] by name. "any": all patches. "target": what the box touches; it falls apart into "border", with a
        side to the outside of it, and "centre", the rest. "outline": the ring of patches around the target.
        "distractors": what another box touches, and the target's does not. "background": what neither touches.
    """
    mine = (target > TOUCHED) & is_patch
    theirs = (other > TOUCHED) & is_patch & ~mine
    apart = (row[:, None] - row).abs(), (col[:, None] - col).abs()
    inside = ((apart[0] + apart[1] == 1) & mine).sum(1) == 4
    near = ((torch.maximum(*apart) == 1) & mine).any(1)
    return {
        "any": is_patch, "target": mine, "border": mine & ~inside, "centre": mine & inside,
        "outline": near & ~mine & is_patch, "distractors": theirs, "background": is_patch & ~mine & ~theirs,
    }  # fmt: skip


def regions_of(truths: Truths, layout: VisualLayout) -> dict[str, Tensor]:
    """`regions` of one prompt row. Raises Unservable for an image of several grids, and for samples without a box."""
    sample = truths.sample(layout)
    if sample.box is None:
        raise Unservable("without a box nothing says which tokens are the target's")
    target = truths.covered(layout, sample.box)
    boxes = [truths.covered(layout, box) for box in sample.others or ()]
    other = torch.stack(boxes).amax(0) if boxes else torch.zeros_like(target)
    return regions(target, other, layout.row, layout.col, layout.is_patch)


@dataclass(frozen=True)
class Forced(Pruner):
    """A pruner whose score decides only within tiers; `to_drop`, where given, says how many tokens go.

    Args:
        inner: keeps the highest scores, and acts before the LLM; else Unservable.
        tier: of a row, Long[N]: higher ones are kept first.
        to_drop: of a row, how many patches go; None = as many as `inner` drops.
    """

    inner: Pruner | None = None
    tier: Callable[[VisualLayout], Tensor] | None = None
    to_drop: Callable[[VisualLayout], int] | None = None

    @staticmethod
    def of(
        inner: Pruner, tier: Callable[[VisualLayout], Tensor], to_drop: Callable[[VisualLayout], int] | None = None
    ) -> Forced:
        """With the budget of `inner`."""
        return Forced(inner.keep, inner.tokens, inner, tier, to_drop)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.inner is None or self.tier is None:
            raise GroundPruneError("a forced pruner needs a pruner and its tiers")
        by_rule = any(getattr(type(self.inner), name) is not getattr(Pruner, name) for name in ("rule", "select"))
        if by_rule or self.inner.inside:
            raise Unservable(f"{self.inner.label} does not keep the highest scores, before the LLM: nothing to force")
        for name in ("needs", "name"):
            object.__setattr__(self, name, getattr(self.inner, name))

    @property
    def _inner(self) -> Pruner:
        assert self.inner is not None
        return self.inner

    def for_model(self, config: Any) -> Forced:
        return replace(self, inner=self._inner.for_model(config))

    def stages(self, n_layers: int) -> list[Stage]:
        return [replace(stage, adaptive=self.to_drop is not None) for stage in self._inner.stages(n_layers)]

    def rule(self, signals: Signals, layout: VisualLayout, stage: Stage) -> Rule:
        score, tier = self._score(signals, layout, stage), self._tier(layout)
        return lambda pool, count: top_by_tier(tier[pool], score[pool], count)

    def select(self, signals: Signals, layout: VisualLayout, stage: Stage) -> Selection:
        if self.to_drop is None:
            return super().select(signals, layout, stage)
        score, tier, patches = self._score(signals, layout, stage), self._tier(layout), layout.patches
        gone = others(top_by_tier(tier[patches], score[patches], len(patches) - self.to_drop(layout)), len(patches))
        return Selection(others(patches[gone], len(layout)))

    def _tier(self, layout: VisualLayout) -> Tensor:
        assert self.tier is not None
        return self.tier(layout).to(layout.column.device)

    def _score(self, signals: Signals, layout: VisualLayout, stage: Stage) -> Tensor:
        return checked_scores(self.label, self._inner.score(signals, layout, stage), layout)


def forced(keep: str | None = None, drop: str | None = None) -> Intervention:
    """The intervention that keeps one region before all else, and drops another before all else.

    The budget is the pruner's own: a region that is larger is kept by its best scores, and where more has to go than
    a region holds, the rest goes too.

    Args:
        keep: one of REGIONS, or None.
        drop: likewise; where both hold a token, it is dropped.

    Returns:
        Intervention; at run time Unservable for pruners without scores, for images of several grids, and where a
        region is what other things show, or what nothing shows, and samples do not say where those are.

    Raises:
        GroundPruneError: no such region.
    """
    _known(*filter(None, (keep, drop)))

    def change(pruner: Pruner, policy: Policy, truths: Truths) -> tuple[Pruner, Policy]:
        def tier(layout: VisualLayout) -> Tensor:
            found = _told(truths, layout, *filter(None, (keep, drop)))
            nowhere = torch.zeros_like(layout.is_patch)
            first, last = found.get(keep or "", nowhere), found.get(drop or "", nowhere)
            return torch.where(last, -1, first.int())

        return Forced.of(pruner, tier), policy

    return change


def dropping(region: str, like: Sequence[str] = (), share: float = 1.0) -> Intervention:
    """The intervention that drops tokens of one region alone, the lowest scores first.

    As many go as the smallest of the region and those of `like` has, times `share` (rounded down): interventions
    with the same set of regions drop equally many of each sample. The setting's `keep`, which must be below 1, then
    says nothing.

    Args:
        region: one of REGIONS.
        like: others of them.
        share: 0..1.

    Returns:
        Intervention, see `forced`.

    Raises:
        GroundPruneError: no such region.
    """
    _known(region, *like)

    def change(pruner: Pruner, policy: Policy, truths: Truths) -> tuple[Pruner, Policy]:
        def tier(layout: VisualLayout) -> Tensor:
            return -_told(truths, layout, region)[region].int()

        def count(layout: VisualLayout) -> int:
            found = _told(truths, layout, region, *like)
            return int(share * min(int(found[name].sum()) for name in (region, *like)))

        return Forced.of(pruner, tier, count), policy

    return change


def _told(truths: Truths, layout: VisualLayout, *names: str) -> dict[str, Tensor]:
    """`regions_of`. Raises Unservable also where one of `names` needs boxes that the sample does not come with."""
    if truths.sample(layout).others is None and not set(OF_OTHERS).isdisjoint(names):
        raise Unservable("the data does not say where else things are: distractors are not told from the background")
    return regions_of(truths, layout)


def _known(*names: str) -> None:
    for name in names:
        if name not in REGIONS:
            raise unknown("region", name, REGIONS)
