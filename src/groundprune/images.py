"""Images as a person expects them: upright, RGB, and refused in one line when they cannot be read."""

import math
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, ImageOps

from groundprune.errors import GroundPruneError

Colour = tuple[int, int, int]

# 192 MB as RGB. Every photograph fits; a panorama of 20,000 x 10 pixels would need six times as much.
MAX_CANVAS_PIXELS = 64 * 1024**2


class ImageError(GroundPruneError):
    """An image file that cannot be used; the message names the file and the reason in one line."""


def load_image(path: str | os.PathLike[str]) -> Image.Image:
    """Read an image file as upright 8-bit RGB.

    EXIF rotation is applied, transparency is laid over white, 16-bit grey is scaled to 8 bits, other
    modes are converted. Of several frames the first is used, with a UserWarning.

    Raises ImageError when the file is missing, a folder, no image, damaged or truncated, empty,
    larger than PIL.Image.MAX_IMAGE_PIXELS, or has 32-bit pixels beyond the 16-bit range.
    """
    path = Path(path)
    if path.is_dir():
        raise ImageError(f"{path}: is a folder, not an image")
    with _strict_decoding():
        try:
            image = Image.open(path)
        except FileNotFoundError:
            raise ImageError(f"{path}: no such file") from None
        except Image.UnidentifiedImageError:
            # Pillow says the same of unknown formats, of broken headers and of sizes of 0 pixels.
            has_content = path.stat().st_size > 0
            reason = "not an image in a known format, or one without pixels" if has_content else "the file is empty"
            raise ImageError(f"{path}: {reason}") from None
        except Image.DecompressionBombError:
            raise ImageError(f"{path}: {_too_large()}") from None
        except Exception as error:  # decoders raise whatever their format's code raises
            raise ImageError(f"{path}: cannot be opened ({_one_line(error)})") from error
        with image:
            _check_size(path, image)
            try:
                image.load()
            except Exception as error:  # as above: OSError, SyntaxError, struct.error, EOFError, ...
                raise ImageError(f"{path}: damaged or truncated ({_one_line(error)})") from error
            _warn_about_frames(path, image)
            return _to_rgb(path, _upright(path, image))


def pad_to_square(image: Image.Image, fill: Colour) -> Image.Image:
    """The image in the middle of a square of its longer edge, to the pixel as LLaVA's expand2square.

    fill: RGB, 0-255, of the padding. The result is a new image.
    """
    return _centred(image, max(image.size), fill)


def pad_to_square_resized(image: Image.Image, side: int, fill: Colour) -> Image.Image:
    """Resize the longer edge to `side` pixels (bicubic), then pad to side x side.

    LLaVA pads first and resizes afterwards. This order never builds a canvas larger than the result,
    at the price of pixels that differ slightly, and of a shorter edge rounded to at least 1 pixel.
    """
    if side < 1:
        raise GroundPruneError(f"side={side}: at least 1 pixel is needed")
    scale = side / max(image.size)
    width, height = (max(1, round(edge * scale)) for edge in image.size)
    return _centred(image.resize((width, height), Image.Resampling.BICUBIC), side, fill)


def square(image: Image.Image, fill: Colour, max_pixels: int = MAX_CANVAS_PIXELS) -> Image.Image:
    """Pad to a square in LLaVA's order, or with pad_to_square_resized when that exceeds max_pixels.

    The result is a new image of at most max_pixels.
    """
    if max(image.size) ** 2 <= max_pixels:
        return pad_to_square(image, fill)
    return pad_to_square_resized(image, math.isqrt(max_pixels), fill)


def _centred(image: Image.Image, side: int, fill: Colour) -> Image.Image:
    canvas = Image.new("RGB", (side, side), fill)
    canvas.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return canvas


@contextmanager
def _strict_decoding() -> Iterator[None]:
    """Truncated files are errors, whatever other libraries set; sizes are judged by _check_size."""
    tolerant = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = tolerant


def _check_size(path: Path, image: Image.Image) -> None:
    if Image.MAX_IMAGE_PIXELS is not None and image.width * image.height > Image.MAX_IMAGE_PIXELS:
        raise ImageError(f"{path}: {image.width} x {image.height} pixels, {_too_large()}")


def _too_large() -> str:
    return f"larger than the limit of {Image.MAX_IMAGE_PIXELS} pixels (PIL.Image.MAX_IMAGE_PIXELS)"


def _warn_about_frames(path: Path, image: Image.Image) -> None:
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":  # MPO: a camera's photograph with its own preview behind it
        warnings.warn(f"{path}: holds {frames} frames, the first is used", stacklevel=3)


def _upright(path: Path, image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # broken metadata is common, and the pixels are fine
        warnings.warn(f"{path}: unreadable EXIF data, the rotation is unknown", stacklevel=3)
        return image


def _to_rgb(path: Path, image: Image.Image) -> Image.Image:
    if image.mode == "F" or image.mode.startswith("I"):
        image = _scale_deep_grey(path, image)
    if image.has_transparency_data:
        with_alpha = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), with_alpha).convert("RGB")
    return image.convert("RGB")


def _scale_deep_grey(path: Path, image: Image.Image) -> Image.Image:
    """16-bit grey (modes I;16* and, by older Pillow, I) to 8 bits; Pillow's convert would clip at 255."""
    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > 65535:
        raise ImageError(f"{path}: 32-bit pixels have no agreed white; convert it to 8 or 16 bits")
    return Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
