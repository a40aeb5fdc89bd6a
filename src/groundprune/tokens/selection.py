"""Where a pruner acts, and what it gives: which visual tokens stay, and what their features become."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from groundprune.errors import GroundPruneError
from groundprune.tokens.budget import Budget


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


@dataclass(frozen=True, eq=False)
class Affine:
    """weight @ source + extra: a mix that also takes from what is no visual token, such as the tower's CLS token.

    Attributes:
        weight: Float[K, N].
        extra: Float[K, C], zero in the rows that mix visual tokens alone.
    """

    weight: Tensor
    extra: Tensor

    def __matmul__(self, source: Tensor) -> Tensor:
        return self.weight @ source + self.extra


@dataclass(frozen=True, eq=False)
class Merge:
    """New features of the kept tokens: weight @ the features of all N.

    Attributes:
        weight: Float[K, N] (may be sparse), or an Affine.
        space: "projected" (what the LLM reads), "tower" (before the projector, which then runs on the result: needs
            `PROJECTOR`) or "hidden" (the states that enter the stage's layer of the LLM).

    Raises:
        GroundPruneError: another space.
    """

    weight: Tensor | Affine
    space: str = "projected"

    def __post_init__(self) -> None:
        if self.space not in ("projected", "tower", "hidden"):
            raise GroundPruneError(
                f"a merge happens in the space 'projected', 'tower' or 'hidden' (got {self.space!r})"
            )


@dataclass(frozen=True, eq=False)
class Selection:
    """Which visual tokens stay. A token that a method appends takes the slot and the id of a dropped one.

    Attributes:
        kept: Long[K], ascending and unique, indices into the layout's N tokens.
        merge: what the features of the kept become; None = they stay what they are.
        order: Long[K], indices into `kept`: the sequence in which the method's own code emits the kept tokens, one
            image after another; only the `official` policy reads it, and a later stage then sees them in that
            sequence. None = raster order.
    """

    kept: Tensor
    merge: Merge | None = None
    order: Tensor | None = None
