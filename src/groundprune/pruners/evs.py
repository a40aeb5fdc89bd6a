"""`evs`: of a video, keep the first frame, then the patches least like the same patch of the frame before.

Paper: "Efficient Video Sampling: Pruning Temporally Redundant Tokens for Faster VLM Inference", arXiv 2510.14624.
Source: github.com/vllm-project/vllm, `vllm/multimodal/evs.py`, `compute_retention_mask`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from groundprune.errors import Unservable
from groundprune.pruners.base import Pruner
from groundprune.pruners.frames import frames_of
from groundprune.pruners.merging import at_least
from groundprune.pruners.ranking import top, unit
from groundprune.pruners.registry import register
from groundprune.signals import VIDEO, Signals
from groundprune.tokens.layout import VisualLayout
from groundprune.tokens.selection import Stage

_FIRST_FRAME = 3.0  # above every 1 - cosine


@register
@dataclass(frozen=True)
class EVS(Pruner):
    """Needs videos, of two frames at least, each a pool of its own: a prompt that holds a still image is refused.

    The official code prunes the videos of a mixed prompt and leaves its images whole. Where the budget is less than a
    first frame the official code keeps that frame; here it is refused. In a model of three position axes the official
    code lets the text behind a video count on from the width of its frames; here it counts on from where it
    does in the unpruned prompt.
    """

    name = "evs"
    pool = "image"
    official_positions = "preserved"
    paper, year, scores_by = "2510.14624", 2025, "change from the frame before"
    needs = frozenset({VIDEO})

    def pools(self, layout: VisualLayout, stage: Stage) -> list[Tensor]:
        stills = [number for number, frames in enumerate(frames_of(layout), 1) if frames == 1]
        if stills:
            raise Unservable(
                f"{self.name} compares the frames of a video; of this prompt's {layout.n_images} images and videos "
                f"number {stills[0]} is a single frame"
            )
        return super().pools(layout, stage)

    def shares(
        self, signals: Signals, layout: VisualLayout, stage: Stage, pools: Sequence[Tensor], count: int
    ) -> list[int]:
        shares = super().shares(signals, layout, stage, pools, count)
        for share, pool, frames in zip(shares, pools, frames_of(layout), strict=True):
            at_least(self.name, share, len(pool) // frames, len(pool), "the first frame of a video")
        return shares

    def score(self, signals: Signals, layout: VisualLayout, stage: Stage) -> Tensor:
        score, features = torch.zeros(len(layout), device=layout.column.device), signals.projected
        for video, frames in zip(layout.groups("image"), frames_of(layout), strict=True):
            score[video] = evs_scores(features[video], frames)
        return score


def select_evs(features: Tensor, frames: int, count: int) -> Tensor:
    """Float[..., N, D] of a video, frame after frame -> Long[..., count], ascending: the largest of `evs_scores`."""
    return top(evs_scores(features, frames), count)


def evs_scores(features: Tensor, frames: int) -> Tensor:
    """Float[..., N, D] -> Float[..., N]: 1 - cosine to the same patch of the frame before; above all the first frame.

    The paper compares pixels, the official code what the projector gives; here it is the latter.
    """
    size = features.shape[-2] // frames
    features = unit(features)
    # Of directions half the squared distance is 1 - cosine, and exactly 0 where nothing changed.
    changed = (features[..., size:, :] - features[..., :-size, :]).square().sum(-1) / 2
    first = torch.full_like(features[..., :size, 0], _FIRST_FRAME)
    return torch.cat([first, changed], -1)
