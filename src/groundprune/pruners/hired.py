"""`hired`: keep the patches that CLS attends to most, with a budget per tile from the whole image's attention.

Paper: "HiRED: Attention-Guided Token Dropping for Efficient Inference of High-Resolution VLMs", arXiv 2408.10945,
AAAI 2025, section 4. Source: github.com/hasanar1f/HiRED, `HiRED_token_selection`, `HiRED_sub_img_budgets`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from torch import Tensor

from groundprune.errors import GroundPruneError
from groundprune.pruners.base import Pruner
from groundprune.pruners.ranking import ranked
from groundprune.pruners.registry import register
from groundprune.signals import CLS_ATTENTION, Need, Signals
from groundprune.tokens.budget import allot
from groundprune.tokens.layout import VisualLayout
from groundprune.tokens.selection import Stage


@register
@dataclass(frozen=True)
class HiRED(Pruner):
    """Needs a tower with a CLS token.

    An image of one crop gets all of its budget: FasterVLM's rule. What the official code loses by rounding down goes
    to the crops with the largest remainders.

    Args:
        alpha: Share of the budget that the whole image's crop gets, above 0 and at most 1.
    """

    alpha: float = 0.5
    name = "hired"
    paper, year, scores_by = "2408.10945", 2024, "CLS attention, budget per tile"
    needs = frozenset({CLS_ATTENTION, Need("tower_attention", 0, "cls")})

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.alpha <= 1:
            raise GroundPruneError(f"alpha must be above 0 and at most 1 (got {self.alpha!r})")

    def score(self, signals: Signals, layout: VisualLayout, stage: Stage) -> Tensor:
        return signals.tower_attention(kind="cls").sum(0)

    def pools(self, layout: VisualLayout, stage: Stage) -> list[Tensor]:
        return [crop for crops in _crops(layout) for crop in crops]

    def shares(
        self, signals: Signals, layout: VisualLayout, stage: Stage, pools: Sequence[Tensor], count: int
    ) -> list[int]:
        early, images = signals.tower_attention(0, "cls").sum(0), _crops(layout)
        totals = allot(count, [sum(map(len, crops)) for crops in images])
        each = zip(images, totals, strict=True)
        budgets = [hired_budgets(early[c[0]], [len(crop) for crop in c], total, self.alpha) for c, total in each]
        return [share for of_image in budgets for share in of_image]


def _crops(layout: VisualLayout) -> list[list[Tensor]]:
    """By image, the patches of its crops: the overview first, whether the tower sees it first or last (InternVL)."""
    at = layout.host
    images = [at.crops(int(at.image[pool[0]])) for pool in at.groups("image")]
    crops = [sorted(found, key=lambda crop: not bool(at.overview[crop].any())) for found in images]
    return [[layout.here(crop) for crop in found] for found in crops]


def hired_budgets(
    early: Tensor, sizes: Sequence[int], total: int, alpha: float = 0.5, exact: bool = True
) -> list[int]:
    """Tokens per crop. early: Float[N], layer 0's CLS attention in the whole image's crop, which comes first.

    The other crops share by how many of the N (1 - alpha) strongest of those lie in each one's run of the raster.
    Such runs are strips of the image, not the crops' own regions; the official code has it so. exact: what rounding
    down loses, and what exceeds a crop's size, goes to the others; False as in the official code.
    """
    n, share = sizes[0], Fraction(str(alpha))
    if len(sizes) == 1:
        return [min(total, n)]
    first = min(int(total * share), n)
    rest, tiles = min(total - first, sum(sizes[1:])), len(sizes) - 1
    marked = ranked(early, int(n * (1 - share))).tolist()
    marks = [0] * tiles
    for index in marked:
        marks[index * tiles // n] += 1
    whole = max(1, sum(marks))
    shares = [min(mark * rest // whole, size) for mark, size in zip(marks, sizes[1:], strict=True)]
    if exact:
        by_remainder = sorted(range(tiles), key=lambda i: -(marks[i] * rest % whole))
        while sum(shares) < rest:
            for i in by_remainder:
                if sum(shares) < rest and shares[i] < sizes[1 + i]:
                    shares[i] += 1
        first = min(n, total - rest)
    return [first, *shares]
