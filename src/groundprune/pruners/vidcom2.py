"""`vidcom2`: the more a frame differs from its video, the more it keeps: the patches least like frame and video.

Paper: "Video Compression Commander: Plug-and-Play Inference Acceleration for Video Large Language Models",
arXiv 2505.14454, EMNLP 2025, section 3. Source: github.com/xuyang-liu16/VidCom2, `vidcom2_compression`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from groundprune.pruners.base import Pruner, Rule
from groundprune.pruners.frames import frames_of
from groundprune.pruners.ranking import checked, ranked, unit
from groundprune.pruners.registry import register
from groundprune.signals import Signals
from groundprune.tokens.layout import VisualLayout
from groundprune.tokens.selection import Stage

_SCALES = (0.125, 0.25, 0.5, 1.0, 2.0)  # of the Gaussians that are added up
_TEMPERATURE = 0.01
PARTS = 100_000  # of what a frame is due for one token
_FIRST = 2**60  # more than anything is due


@register
@dataclass(frozen=True)
class VidCom2(Pruner):
    """Scores by the projected features alone. Each video is a pool of its own, and so is each still image.

    The official code leaves still images whole; here one is a video of one frame, however many crops it is seen in,
    and of it the patches least like its mean stay. Position ids: its LLaVA code renumbers, its code for Qwen2-VL,
    Qwen2.5-VL and Qwen3-VL keeps them.
    """

    name = "vidcom2"
    pool = "image"
    official_by_model: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("qwen2_vl", "qwen2_5_vl", "qwen3_vl"), "preserved"
    )
    paper, year, scores_by = "2505.14454", 2025, "frame and patch uniqueness"

    def rule(self, signals: Signals, layout: VisualLayout, stage: Stage) -> Rule:
        frames, features = frames_of(layout), signals.projected
        due, taken = (torch.zeros(len(layout), dtype=torch.long, device=features.device) for _ in range(2))
        for image, count in zip(layout.groups("image"), frames, strict=True):
            due[image], taken[image] = uniqueness(features[image], count)
        return lambda pool, count: within_budgets(due[pool], taken[pool], count)


def select_vidcom2(features: Tensor, frames: int, count: int) -> Tensor:
    """Float[..., N, D] of a video, frame after frame -> Long[..., count], ascending."""
    return within_budgets(*uniqueness(features, frames), count)


@torch.no_grad()
def uniqueness(features: Tensor, frames: int) -> tuple[Tensor, Tensor]:
    """Float[..., N, D] -> Long[..., N] each, in 1 / PARTS, so that rounding decides nothing: due, and taken.

    A frame is due 1 for each token that the video keeps, and more by a softmax of its mean unlikeness to the video.
    A token takes as many as there are frames; taken is what those take that come before it in its frame, the least
    like frame and video first. Likeness is a sum of Gaussians of the distance to the mean of directions. Read are
    the half of the channels that vary least, as in the official code.
    """
    features, size = checked(features, "features"), features.shape[-2] // frames
    calm = ranked(-features.var(-2, correction=0), max(1, features.shape[-1] // 2)).sort(-1).values
    directions = unit(features.gather(-1, calm[..., None, :].expand(*features.shape[:-1], -1)))
    directions = directions.unflatten(-2, (frames, size))
    centre = directions.mean(-2, keepdim=True)
    to_video = _likeness(directions, centre.mean(-3, keepdim=True))
    to_frame = _likeness(directions, centre)
    extra = (-to_video.mean(-1) / _TEMPERATURE).softmax(-1)
    due = ((1 + extra - extra.mean(-1, keepdim=True)) * PARTS).round().long()
    place = ranked(-(to_video + to_frame)).argsort(-1)
    return due[..., None].expand(place.shape).flatten(-2), place.flatten(-2) * frames * PARTS


def within_budgets(due: Tensor, taken: Tensor, count: int) -> Tensor:
    """Long[..., N] each -> Long[..., count], ascending.

    Each frame keeps its first token; then all keep whole tokens of what they are due, and those with the largest
    remainders one more, so that the count is exact. The official code rounds each frame's budget by itself, and what
    a full frame cannot take is lost there; here it goes to the others.
    """
    owed = (count * due - taken).where(taken > 0, _FIRST + due)
    return owed.sort(dim=-1, descending=True, stable=True).indices[..., :count].sort(-1).values


def _likeness(directions: Tensor, centre: Tensor) -> Tensor:
    """Float[..., F, P, D], centre likewise or 1 -> Float[..., F, P]."""
    away = (directions - centre).square().sum(-1)
    return torch.stack([(away / (-2 * scale)).exp() for scale in _SCALES]).sum(0)
