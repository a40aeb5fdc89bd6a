"""LLaVA-1.5's image processor, whose padding needs no more memory than the image and what the tower sees of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import transformers
from PIL import Image

from groundprune.boxes.images import square


class LlavaImageProcessorPil(transformers.LlavaImageProcessorPil):
    """Pads as the stock class does. Its name is that one's: a checkpoint that is saved names it, for any reader."""

    @classmethod
    def like(cls, other: Any) -> Any:
        """With the settings of an image processor, which may be one that crops."""
        if isinstance(other, cls) and other.do_pad:
            return other
        if isinstance(other, transformers.LlavaImageProcessorPil) and other.do_pad:
            return cls.from_dict(other.to_dict())
        settings = ("size", "crop_size", "resample", "image_mean", "image_std", "rescale_factor")
        given = {name: getattr(other, name) for name in settings if getattr(other, name, None) is not None}
        return cls(**given, do_pad=True)

    def _preprocess(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, images: list[np.ndarray], **options: Any
    ) -> Any:
        if options["do_pad"] and options["do_resize"]:
            images = [_squared(image, **options) for image in images]
        return super()._preprocess(images, **options)


def _squared(image: np.ndarray, size: Any, resample: Any, image_mean: Any, **_: Any) -> np.ndarray:
    """[3, H, W], bytes; the stock class pads what is still no square."""
    if image.dtype != np.uint8 or len(image) != 3 or not size.shortest_edge or not image_mean:
        return image
    red, green, blue = (int(255 * mean) for mean in image_mean)
    seen = square(Image.fromarray(image.transpose(1, 2, 0)), (red, green, blue), size.shortest_edge, resample)
    return np.asarray(seen).transpose(2, 0, 1)
