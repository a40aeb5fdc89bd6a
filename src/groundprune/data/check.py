"""What a folder of benchmarks holds, what it lacks, and where that is to be had."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from groundprune.boxes.images import ImageError
from groundprune.data import gqa, refcoco, screenspot
from groundprune.data.pictures import Picture
from groundprune.data.refcoco import REFCOCO
from groundprune.data.samples import Sample
from groundprune.data.screenspot import SCREENSPOT
from groundprune.data.sources import open_data
from groundprune.errors import GroundPruneError

HOW = {
    refcoco.IMAGES: "unpack http://images.cocodataset.org/zips/train2014.zip into coco/",
    gqa.FILE: "unpack questions1.2.zip of https://cs.stanford.edu/people/dorarad/gqa/download.html into gqa/",
    gqa.IMAGES: "unpack images.zip of the same page into gqa/",
}
REFER = "unpack {}.zip of https://github.com/lichengunc/refer"


@dataclass(frozen=True)
class Found:
    """One split. error: why it cannot be read; then all else is empty.

    samples, official: how many there are, and how many are published. images: different ones; absent: how many of
    them are not there. damaged: what is wrong with images that were opened. impossible: boxes that are none or, of
    images that were opened, lie outside.
    """

    spec: str
    error: str | None = None
    samples: int = 0
    official: int | None = None
    images: int = 0
    absent: int = 0
    damaged: list[str] = field(default_factory=list)
    impossible: list[str] = field(default_factory=list)

    @property
    def wrong(self) -> bool:
        """True: what is there is not what it should be. What is not there is only missing."""
        return bool(self.error or self.damaged or self.impossible) or self.official not in (None, self.samples)


@dataclass(frozen=True)
class Report:
    """missing: files and folders below the root that are not there, and how to get each."""

    found: list[Found]
    missing: dict[str, str]

    @property
    def wrong(self) -> bool:
        return any(split.wrong for split in self.found)


def check_data(root: str | Path, open_images: bool = False) -> Report:
    """Look through the layout of docs/evaluation.md.

    Args:
        root: the folder.
        open_images: also decode every image, which takes long.

    Returns:
        Report of what is there, what is wrong with it, and what is missing.

    Raises:
        GroundPruneError: root is no folder.
    """
    root = Path(root)
    if not root.is_dir():
        raise GroundPruneError(f"{root}: no such folder")
    wanted = {file: REFER.format(data.name) for data in REFCOCO.values() for file in data.files} | HOW
    for data in filter(lambda version: version.published, SCREENSPOT.values()):
        there = (root / data.folder).exists()
        wanted |= dict.fromkeys([*data.files, data.images] if there else [data.folder], data.how)
    missing = {str(file): how for file, how in wanted.items() if not (root / file).exists()}
    splits = [(f"{name}:{split}", data.files) for name, data in REFCOCO.items() for split in data.counts]
    splits += [(f"gqa:{split}", (gqa.FILE,)) for split in gqa.SPLITS]
    splits += [(f"{screenspot.NAME}:{version}", data.files) for version, data in SCREENSPOT.items() if data.published]
    opened: dict[Picture, str | tuple[int, int]] = {}
    there = [spec for spec, files in splits if all((root / file).exists() for file in files)]
    return Report([_check(spec, root, open_images, opened) for spec in there], missing)


def _check(spec: str, root: Path, open_images: bool, opened: dict[Picture, str | tuple[int, int]]) -> Found:
    try:
        data = open_data(spec, root)
    except GroundPruneError as error:
        return Found(spec, str(error))
    pictures = _pictures(data.samples)
    present = [picture for picture in pictures if picture.size >= 0]
    damaged: list[str] = []
    sizes: dict[str, tuple[int, int]] = {}
    for picture in present if open_images else []:
        if picture not in opened:
            opened[picture] = _size(picture)
        found = opened[picture]
        if isinstance(found, str):
            damaged.append(found)
        else:
            sizes[picture.key] = found
    absent = len(pictures) - len(present)
    impossible = [why for s in data.samples if (why := s.impossible(*sizes.get(s.image_key, ())))]
    return Found(spec, None, len(data.samples), data.official, len(pictures), absent, damaged, impossible)


def _pictures(samples: Iterable[Sample]) -> list[Picture]:
    by_key = {s.image_key: s.picture for s in samples}
    return [picture for picture in by_key.values() if isinstance(picture, Picture)]


def _size(picture: Picture) -> str | tuple[int, int]:
    """Width and height, or what is wrong with it."""
    try:
        return picture.open().size
    except ImageError as error:
        return str(error)
