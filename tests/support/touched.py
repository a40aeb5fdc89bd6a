"""Which patches of the pocket's image boxes touch, counted by hand."""

import numpy as np


def touched(boxes):
    """Bool[12, 12]: patches with at least two pixels in one of the boxes, counted pixel by pixel."""
    found = np.zeros((12, 12), dtype=bool)
    for box in boxes:
        image = np.zeros((144, 144))
        image[int(box.y1) : int(box.y2), int(box.x1) : int(box.x2)] = 1
        found |= image.reshape(12, 12, 12, 12).sum((1, 3)) >= 2
    return found
