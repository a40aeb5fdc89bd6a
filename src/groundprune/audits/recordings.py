"""What a recorder wrote, read with care: a file from somewhere else is data, and nothing in it runs."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from groundprune.audits.recorder import FORMAT, RUNS, VERSION
from groundprune.errors import GroundPruneError, first_line


@dataclass(frozen=True, eq=False)
class Reference:
    """The unpruned run: what each column of a prompt row is.

    Attributes:
        embedded: [B, L, D], what entered the first layer.
        key: Long[B, L], equal where rows of it are.
        visual, padding: Bool[B, L].
        image: Long[B, L], which image of its row a visual column belongs to; -1 elsewhere.
        position: per layer Double[B, L, A], by which keys were rotated; None where no key was seen.
        error: likewise, how far off each may be, infinite where no position explains the rotation.
    """

    embedded: Tensor
    key: Tensor
    visual: Tensor
    padding: Tensor
    image: Tensor
    position: list[Tensor | None]
    error: list[Tensor | None]


def read_recording(path: str | Path) -> dict[str, Any]:
    """The recording in a file.

    Args:
        path: written by `Recorder.save`.

    Returns:
        See `Recorder.recorded`.

    Raises:
        GroundPruneError: no such file, no recording, one of another version, or a run is missing.
    """
    path = Path(path)
    if not path.is_file():
        raise GroundPruneError(f"no recording {str(path)!r}")
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (
        pickle.UnpicklingError,
        RuntimeError,
        EOFError,
        ValueError,
        KeyError,
        IndexError,
        AttributeError,
    ) as error:
        reason = "it holds more than tensors and plain values" if "eights" in str(error) else first_line(error)
        raise GroundPruneError(f"{path} is no recording: {reason}") from error
    return checked(found, str(path))


def checked(found: Any, name: str = "the recording") -> dict[str, Any]:
    """Raises GroundPruneError where `found` is no recording with both runs, or none of this version."""
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise GroundPruneError(f"{name} is no recording of groundprune's recorder")
    if found.get("version") != VERSION:
        raise GroundPruneError(f"{name} is a recording of version {found.get('version')}, this reads {VERSION}")
    for run in RUNS:
        passes = found["runs"].get(run) or []
        if not passes:
            raise GroundPruneError(f"{name}: no decoder layer ran in the {run!r} run")
        if passes[0]["embedded"] is None:
            raise GroundPruneError(f"{name}: the first decoder layer did not run in the {run!r} run")
    return found


def reference_of(recording: dict[str, Any], placeholders: list[int], images: list[Tensor] | None = None) -> Reference:
    """What the unpruned run of a recording says.

    Args:
        recording: from `read_recording`.
        placeholders: ids that stand for visual tokens; where the prompt is no longer than its ids they tell which
            columns are visual, else those are whose rows the word embeddings did not give.
        images: per row Long[N], the image of each visual column; by default each run of columns is one.

    Returns:
        Reference.

    Raises:
        GroundPruneError: the run took the prompt in several pieces, or holds no visual token.
    """
    first = recording["runs"]["reference"][0]
    embedded, layers = first["embedded"], first["layers"]
    ids, mask = (recording["inputs"].get(name) for name in ("input_ids", "attention_mask"))
    shape = embedded.shape[:2]
    if ids is not None and ids.shape == shape and placeholders:
        visual = torch.isin(ids, torch.tensor(placeholders))
    else:
        visual = ~first["text"]
    padding = mask == 0 if mask is not None and mask.shape == shape else torch.zeros(shape, dtype=torch.bool)
    visual = visual & ~padding
    if not visual.any():
        raise GroundPruneError("the unpruned run holds no visual token")
    image = torch.full(shape, -1)
    for b, row in enumerate(visual):
        starts = row & ~torch.nn.functional.pad(row, (1, 0))[:-1]
        image[b, row] = (starts.cumsum(0) - 1)[row] if images is None else images[b].cpu()
    return Reference(
        embedded, layers[0]["entering"], visual, padding, image,
        [layer and layer["position"] for layer in layers],
        [layer and layer.get("error") for layer in layers],
    )  # fmt: skip
