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

_THIN = 4  # the ratio of edges from which on the canvas of a padded image is mostly padding
_REACH = 3  # of Pillow's widest filter (Lanczos), in pixels of the result


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


def square(
    image: Image.Image, fill: Colour, side: int, resample: Image.Resampling = Image.Resampling.BICUBIC
) -> Image.Image:
    """Pad to a square. A thin image comes with side x side pixels, those that the padded one would be resized to.

    side: what the result will be resized to, with `resample`. The canvas of a thin image would hold thousands of
    times its pixels; here memory is bounded by the image and the result. The result is a new image.
    """
    if side < 1:
        raise GroundPruneError(f"side={side}: at least 1 pixel is needed")
    if max(image.size) <= max(side, _THIN * min(image.size)):
        return pad_to_square(image, fill)
    if image.width > image.height:
        return _wide_resized(image, fill, side, resample)
    turn = Image.Transpose.TRANSPOSE  # pixels differ by rounding: Pillow resizes along rows first
    return _wide_resized(image.transpose(turn), fill, side, resample).transpose(turn)


def _wide_resized(image: Image.Image, fill: Colour, side: int, resample: Image.Resampling) -> Image.Image:
    """`pad_to_square` and resize, with no more rows of padding than those that are seen together with the image's."""
    scale, top = image.width / side, (image.width - image.height) // 2
    first = max(0, math.floor(top / scale - _REACH))  # rows of the result that see some of the image
    last = min(side, math.ceil((top + image.height) / scale + _REACH))
    above = max(0, math.floor((first - _REACH) * scale))  # rows of the canvas that these see
    below = min(image.width, math.ceil((last + _REACH) * scale))
    strip = Image.new("RGB", (side, below - above), fill)
    strip.paste(image.resize((side, image.height), resample), (0, top - above))
    seen = strip.resize((side, last - first), resample, (0, first * scale - above, side, last * scale - above))
    canvas = Image.new("RGB", (side, side), fill)
    canvas.paste(seen, (0, first))
    return canvas


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
