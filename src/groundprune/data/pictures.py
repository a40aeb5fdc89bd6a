"""Images that stay on the disk until they are asked for, and never come from outside of their folder."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Protocol, runtime_checkable

from PIL import Image

from groundprune.boxes.images import load_image
from groundprune.errors import GroundPruneError


@runtime_checkable
class Picture(Protocol):
    """key: one per image, the same in every process. size: bytes of its file, -1 where it is not there."""

    @property
    def key(self) -> str: ...

    @property
    def size(self) -> int: ...

    def open(self) -> Image.Image:
        """Upright RGB, as `load_image` makes it. Raises ImageError where it cannot be read."""
        ...


def inside(folder: Path, name: str) -> Path:
    """The path of a file below `folder`. name: as data names it, with "/" between its parts.

    Raises GroundPruneError for a name that leads outside of the folder.
    """
    parts = PurePosixPath(name).parts
    # Backslashes, drives and NUL mean something on some systems, and nothing good.
    if not parts or ".." in parts or parts[0] == "/" or re.search(r"[\\:\0]", name):
        raise GroundPruneError(f"{name!r} must be a path inside of its folder {folder}")
    return folder / name


@dataclass(frozen=True)
class ImageFile:
    """A file below a folder; see `inside`."""

    folder: Path
    name: str

    def __post_init__(self) -> None:
        inside(self.folder, self.name)

    @property
    def path(self) -> Path:
        return inside(self.folder, self.name)

    @property
    def key(self) -> str:
        return self.name

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.is_file() else -1

    def open(self) -> Image.Image:
        return load_image(self.path)


@dataclass(frozen=True)
class StoredImage:
    """An image inside of a table. read: gives the bytes of its file."""

    key: str
    read: Callable[[], bytes] = field(repr=False)
    size: int = 0

    def open(self) -> Image.Image:
        # load_image takes paths: what it refuses, it names.
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / re.sub(r"\W+", "-", self.key)
            path.write_bytes(self.read())
            return load_image(path)
