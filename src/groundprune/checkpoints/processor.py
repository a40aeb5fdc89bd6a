"""The checkpoint's own processor, also on a machine without torchvision.

transformers' processors of models that also take videos need torchvision, though only for videos. Here the same
classes are built without their video part and on transformers' image processors for Pillow, so that prompts are
expanded by transformers' own code.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from transformers import AutoProcessor
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES, processor_class_from_name
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize
from transformers.processing_utils import ProcessorMixin
from transformers.utils import is_torchvision_available

from groundprune.errors import GroundPruneError, Unservable, first_line


def load_processor(source: str | Path, config: Any, trust_remote_code: bool = False, **hub: Any) -> Any:
    """The processor of a local folder or Hub id whose model has this config.

    hub: `revision`, `cache_dir`, `token`, `local_files_only`, as in `from_pretrained`. Where torchvision is missing,
    the processor of a model that also takes videos refuses these with Unservable.
    Raises whatever transformers raises.
    """
    about, _ = ProcessorMixin.get_processor_dict(source, **hub)
    name = about.get("processor_class") or PROCESSOR_MAPPING_NAMES.get(config.model_type)
    found = None if name is None or is_torchvision_available() else _images_only(name)
    if found is None:
        return AutoProcessor.from_pretrained(source, trust_remote_code=trust_remote_code, **hub)
    with _without_num2words(sys.modules[found.__bases__[-1].__module__]):
        return found.from_pretrained(source, **hub)


def resized_size(processor: Any, width: int, height: int) -> tuple[int, int]:
    """(width, height) in pixels to which an image processor of Qwen2-VL's kind resizes an image, by its own settings.

    Raises GroundPruneError for image processors of other kinds, and for the shapes that this one refuses.
    """
    own = processor.image_processor
    if not hasattr(own, "merge_size"):
        raise GroundPruneError(
            f"boxes in pixels of the resized image need Qwen2-VL's way to resize; {own} has another"
        )
    try:
        rows, cols = smart_resize(
            height, width, own.patch_size * own.merge_size, own.size["shortest_edge"], own.size["longest_edge"]
        )
    except ValueError as error:
        raise GroundPruneError(
            f"an image of {width} x {height} pixels cannot be resized: {first_line(error)}"
        ) from error
    return cols, rows


class _NoVideos:
    num_frames = fps = None  # SmolVLM's chat template asks, also about images

    def __call__(self, *args: Any, **options: Any) -> NoReturn:
        raise Unservable("videos need torchvision, which is not installed")


class _ImagesOnly:
    """Before a stock processor class among the bases: what that class is without its video processor."""

    video_processor = _NoVideos()

    @classmethod
    def get_attributes(cls) -> list[str]:
        return [name for name in super().get_attributes() if name != "video_processor"]  # type: ignore[misc]

    @classmethod
    def from_args_and_dict(cls, args: list[Any], processor_dict: dict[str, Any], **options: Any) -> Any:
        # The third argument of all of them is the video processor, which some have no default for.
        return super().from_args_and_dict([*args, None], processor_dict, **options)  # type: ignore[misc]


@cache
def _images_only(name: str) -> type[Any] | None:
    """The named processor class for images alone; None where the stock class needs no torchvision, or is unknown."""
    stock = processor_class_from_name(name)
    if getattr(stock, "is_dummy", False):
        stock = _pixtral() if name == "PixtralProcessor" else None
        return None if stock is None else type(name, (stock,), {})
    if stock is None or "video_processor" not in stock.get_attributes():
        return None
    return type(name, (_ImagesOnly, stock), {})


def _pixtral() -> type[Any]:
    """Its module takes one function from a file that needs torchvision; the file for Pillow has the same function."""
    package = "transformers.models.pixtral"
    needs_torchvision = f"{package}.image_processing_pixtral"
    sys.modules[needs_torchvision] = importlib.import_module(f"{package}.image_processing_pil_pixtral")
    try:
        return importlib.import_module(f"{package}.processing_pixtral").PixtralProcessor
    finally:
        del sys.modules[needs_torchvision]


@contextlib.contextmanager
def _without_num2words(module: ModuleType) -> Iterator[None]:
    """SmolVLM's processor asks for num2words when it is made; it spells out the number of a video's frames."""
    absent = getattr(module, "num2words", module) is None
    if absent:
        module.num2words = str  # type: ignore[attr-defined]
    try:
        yield
    finally:
        if absent:
            module.num2words = None  # type: ignore[attr-defined]
