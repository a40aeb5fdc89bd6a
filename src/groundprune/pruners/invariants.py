"""What holds of every score and every selection, whoever wrote the pruner."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from groundprune.errors import GroundPruneError
from groundprune.tokens.layout import VisualLayout
from groundprune.tokens.selection import Selection, Stage


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
    odd = int((~score[layout.is_patch].isfinite()).sum())
    if odd:
        raise GroundPruneError(
            f"{label}.score must give finite numbers: {odd} of {len(layout.patches)} are NaN or infinite"
        )
    return score


def checked_selection(label: str, given: object, layout: VisualLayout, stage: Stage, count: int) -> Selection:
    """The selection. Raises GroundPruneError unless it is ascending, unique, in range, and of `count` patches."""
    if not isinstance(given, Selection) or not isinstance(given.kept, Tensor):
        raise GroundPruneError(f"{label}.select must give a Selection of a tensor (got {_told(given)})")
    kept, n = given.kept.to(layout.column.device), len(layout)
    if kept.ndim != 1 or kept.dtype not in (torch.int64, torch.int32):
        raise GroundPruneError(f"{label}: kept must be a row of indices (got {tuple(kept.shape)} of {kept.dtype})")
    if not (bool((kept[1:] > kept[:-1]).all()) and bool(((kept >= 0) & (kept < n)).all())):
        raise GroundPruneError(f"{label}: kept tokens must be ascending, unique and in range")
    patches = int(layout.is_patch[kept].sum())
    if patches != count and not stage.adaptive:
        raise GroundPruneError(f"{label} kept {patches} patches where {count} of {len(layout.patches)} are asked for")
    if given.merge is not None and (given.merge.space == "hidden") != (stage.layer is not None):
        # Features exist before the LLM, states of its layers inside: a merge of the other kind would mix neither.
        where, allowed = "before the LLM", "'projected' or 'tower' features"
        if stage.layer is not None:
            where, allowed = f"at decoder layer {stage.layer}", "'hidden' states"
        raise GroundPruneError(
            f"{label} merges in the space {given.merge.space!r} {where}, where only {allowed} can be merged"
        )
    if given.order is None:
        return given
    order, image = given.order.to(kept.device), layout.image[kept]
    if sorted(order.tolist()) != list(range(len(kept))) or not image[order].equal(image):
        raise GroundPruneError(
            f"{label}: order must name each of the {len(kept)} kept tokens once, one image after another"
        )
    return replace(given, order=order)


def _told(value: object) -> str:
    return "None" if value is None else f"a {type(value).__name__}"
