"""Which tokens of one video stay, and how many slots it takes; needs no vLLM.

To the towers that take videos, one is an image of several frames: what prunes an image prunes it, once its values
have the names of an image's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from groundprune.errors import GroundPruneError, Unservable
from groundprune.integrations.vllm.image_pruning import DIGIT, DIGITS, ImagePruning
from groundprune.integrations.vllm.limits import fewest_tokens, most_dropped, rotary_length
from groundprune.integrations.vllm.spans import slots_left
from groundprune.signals import VIDEO, Need, Signals, TowerRecord
from groundprune.tokens.layout import VisualUnit

_NAMES = {"pixel_values_videos": "pixel_values", "video_grid_thw": "image_grid_thw"}


class VideoPruning(ImagePruning):
    """Prunes as `gp.prune` does a prompt that holds this image or video alone."""

    @property
    def videos_only(self) -> bool:
        """Whether still images are refused: what compares frames finds none in them."""
        return VIDEO in self.pruner.needs and not self.settled

    def kept(self, unit: Any, projected: Tensor, values: Mapping[Need, Tensor]) -> Tensor:
        if self.videos_only and self._refusal(unit) is not None:
            # One of a user's never comes here, see `check`: it is one of those that vLLM measures its memory with.
            return torch.arange(self.count(unit))
        return super().kept(unit, projected, values)

    def check(self, unit: VisualUnit) -> None:
        """Raises Unservable where a pruner that compares frames cannot prune this video, as `gp.prune` would."""
        error = self._refusal(unit) if self.videos_only else None
        if error is not None:
            raise error

    def _refusal(self, unit: VisualUnit) -> Unservable | None:
        count = self.count(unit)
        if count >= len(unit):
            return None
        layout = self._layout(unit)
        try:
            pools = self.pruner.pools(layout, self.stage)
            self.pruner.shares(Signals(layout, torch.empty(0), TowerRecord([unit])), layout, self.stage, pools, count)
        except Unservable as error:
            return error
        return None

    def check_moved(self, moved: int, slots: int, room: int) -> None:
        """Raises GroundPruneError where what follows a video would stand past the rotary table, or too far from it.

        moved: positions from the video's first to what follows; slots: that it takes; room: see `room_of`.
        """
        if self.renumbered or self.stage.budget.share == 1:
            return
        if moved > DIGIT**DIGITS and not self.placed_early:
            raise GroundPruneError(
                f"a video that spans {moved} positions is not served when it is pruned (at most {DIGIT**DIGITS})"
            )
        if moved - slots > room:
            raise GroundPruneError(
                f"a video spans {moved} positions in {slots} slots: {moved - slots} more, where {room} are left on "
                "the rotary table for each video of a prompt; lower max_model_len or limit_mm_per_prompt"
            )


def room_of(pruning: ImagePruning, length: int, images: int, videos: int) -> int:
    """By how many positions each video may exceed its slots, such that none of a prompt passes the rotary table.

    length: max_model_len; images, videos: how many a prompt may hold.
    """
    held = min(images, length // fewest_tokens(pruning))
    return max(0, rotary_length(pruning) - length - held * most_dropped(pruning)) // max(1, videos)


def as_image(video: Mapping[str, Any]) -> dict[str, Any]:
    """The values of one video or several, named as those of images are."""
    return {name: video[given] for given, name in _NAMES.items() if given in video}


def without_last(tokens: Sequence[int], token: int, dropped: int) -> list[int]:
    """What stands for a video in its prompt, less the last `dropped` of its own tokens.

    Which of them stay is not known before the tower has seen them, and need not be: their features say it.
    """
    left = tokens.count(token) - dropped
    found: list[int] = []
    for each in tokens:
        left -= each == token
        if each != token or left >= 0:
            found.append(each)
    return found


def video_slots(tokens: Sequence[int], token: int, kept: Tensor) -> Tensor:
    """Long, ascending: which of the tokens that stand for a video stay. kept: Long[K], of those that are its own."""
    own = (torch.tensor(tokens) == token).nonzero().squeeze(1)
    return slots_left(len(tokens), own, kept)
