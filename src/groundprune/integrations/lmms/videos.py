"""Videos by path as the checkpoint's own processor takes them: its choice of frames, or evenly spread ones."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from transformers.video_utils import load_video

from groundprune.errors import GroundPruneError, Unservable, first_line
from groundprune.families.base import families, family_of

FRAMES = 32  # of a processor that chooses none by itself, as lmms-eval's own models read


def check_videos(config: Any) -> None:
    """Raises Unservable, with the families that do, where a model of this config takes no videos."""
    family = family_of(config)
    if "video" not in family.token_ids(config):
        # Of those whose configs name a token for it.
        able = [name for name, each in families().items() if "video" in each.token_ids(each.tiny_config())]
        raise Unservable(f"{family.name} takes no videos (these do: {', '.join(able)})")


def video_arguments(processor: Any, videos: Sequence[Sequence[str]]) -> dict[str, Any]:
    """For the processor: the frames of each prompt's videos, and when they are of.

    Raises GroundPruneError for a file that cannot be read.
    """
    read = [[_read(processor.video_processor, path) for path in of_one] for of_one in videos]
    return {
        "videos": [[frames for frames, _ in of_one] for of_one in read],
        "video_metadata": [[about for _, about in of_one] for of_one in read],
        "do_sample_frames": False,  # they are chosen
    }


def _read(own: Any, path: str) -> tuple[np.ndarray, Any]:
    choose: Any = _evenly
    if own.do_sample_frames:
        options = {name: getattr(own, name, None) for name in own.valid_kwargs.__annotations__}
        choose = partial(own.sample_frames, **options)
    read: Any = load_video  # its types do not say that a path goes in, and a pair comes out
    try:
        return read(path, backend="pyav", sample_indices_fn=choose)
    except Exception as error:  # decoders raise whatever their format's code raises
        raise GroundPruneError(f"the video {path} cannot be read: {first_line(error)}") from error


def _evenly(metadata: Any, **_: Any) -> np.ndarray:
    count = metadata.total_num_frames
    return np.linspace(0, count - 1, min(FRAMES, count)).round().astype(int)
