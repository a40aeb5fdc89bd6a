"""Which images of a prompt row are videos: the frames that pruners of videos choose among."""

from __future__ import annotations

import torch

from groundprune.errors import Unservable
from groundprune.tokens.layout import VisualLayout


def frames_of(layout: VisualLayout) -> list[int]:
    """How many frames each image of a row has, in sequence order: 1 of a still, however many crops it is seen in.

    A video is what lies in several tiles of which each shows the whole. Read from the layout on the CPU. Raises
    Unservable where the frames of a video are not of one size.
    """
    at, found = layout.host, []
    for image in at.groups("image"):
        frames = len(at.tile[image].unique()) if bool(at.overview[image].all()) else 1
        if frames > 1:
            size = len(image) // frames
            place = torch.stack([at.tile, at.row, at.col], 1)[image]
            same = place[size:] - place[:-size] == torch.tensor([1, 0, 0])  # a step on, where it was
            if len(image) % frames or not bool(same.all()):
                raise Unservable(f"the {frames} frames of a video differ in size, so patches cannot be compared")
        found.append(frames)
    return found
