"""What holds of what few selections have, whoever wrote the pruner: merges, and an order of the method's own.

What holds of every score and of every selection stands in `groundprune.pruners.base`.
"""

from __future__ import annotations

from groundprune.errors import GroundPruneError
from groundprune.tokens.layout import VisualLayout
from groundprune.tokens.selection import Merge, Selection, Stage


def check_merge(label: str, merge: Merge, stage: Stage) -> None:
    """Raises GroundPruneError for a merge in a space that is not there at this stage."""
    if (merge.space == "hidden") == (stage.layer is not None):
        return
    # Features exist before the LLM, states of its layers inside: a merge of the other kind would mix neither.
    where, allowed = "before the LLM", "'projected' or 'tower' features"
    if stage.layer is not None:
        where, allowed = f"at decoder layer {stage.layer}", "'hidden' states"
    raise GroundPruneError(f"{label} merges in the space {merge.space!r} {where}, where only {allowed} can be merged")


def ordered(label: str, given: Selection, layout: VisualLayout) -> Selection:
    """The selection, on the CPU. Raises GroundPruneError for an order that mixes images, or is none."""
    assert given.order is not None
    kept, order = given.kept, given.order
    image = layout.image[kept]
    if sorted(order.tolist()) != list(range(len(kept))) or not image[order].equal(image):
        raise GroundPruneError(
            f"{label}: order must name each of the {len(kept)} kept tokens once, one image after another"
        )
    return given
