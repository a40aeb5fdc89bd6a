"""Masks of objects: polygons and run lengths of COCO's files, and arrays; pycocotools (extra `eval`) reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from groundprune.errors import GroundPruneError

Mask = np.ndarray  # bool [height, width]


def decoded(mask: Any, width: int, height: int) -> Mask:
    """The pixels of an object.

    Args:
        mask: as a data set gives it: a list of polygons, each x and y of its points in turn, in pixels; run lengths
            (`{"size": [height, width], "counts": ..}`), as text, bytes or a list; or an array [height, width].
        width: of the image, in pixels.
        height: likewise.

    Returns:
        Bool [height, width].

    Raises:
        GroundPruneError: none of these, or of another image's size; or pycocotools is missing where it is needed.
    """
    if isinstance(mask, np.ndarray):
        if mask.shape != (height, width):
            raise GroundPruneError(f"a mask of {mask.shape[::-1]} pixels is of no image of {width} x {height}")
        return mask.astype(bool)
    tools = _pycocotools()
    try:
        if isinstance(mask, Mapping):
            if [int(edge) for edge in mask["size"]] != [height, width]:
                raise GroundPruneError(f"run lengths of {mask['size']} are of no image of {height} x {width}")
            runs = tools.frPyObjects(dict(mask), height, width) if isinstance(mask["counts"], list) else dict(mask)
        elif isinstance(mask, Sequence) and not isinstance(mask, (str, bytes)) and len(mask):
            if any(len(polygon) < 6 or len(polygon) % 2 for polygon in mask):
                raise GroundPruneError("a polygon is x and y of at least three points, in turn")
            runs = tools.merge(tools.frPyObjects([[float(v) for v in polygon] for polygon in mask], height, width))
        else:
            raise GroundPruneError(f"a mask is polygons, run lengths or an array (got {type(mask).__name__})")
        return tools.decode(runs).astype(bool)
    except GroundPruneError:
        raise
    except Exception as error:  # whatever pycocotools makes of a damaged file
        raise GroundPruneError(f"a mask cannot be read: {type(error).__name__}: {error}") from error


def filled(polygon: Sequence[tuple[float, float]], width: int, height: int) -> Mask:
    """The pixels inside of an outline, as COCO fills polygons. Raises GroundPruneError as `decoded`."""
    return decoded([[value for point in polygon for value in point]], width, height)


def ready() -> None:
    """Raises GroundPruneError, saying how to install it, where pycocotools is missing."""
    _pycocotools()


def overlap(a: Mask, b: Mask) -> tuple[int, int]:
    """Pixels in both, and in either."""
    return int((a & b).sum()), int((a | b).sum())


def _pycocotools() -> Any:
    try:
        from pycocotools import mask
    except ImportError as error:
        raise GroundPruneError("masks need pycocotools: pip install 'groundprune[eval]'") from error
    return mask
