"""ScreenSpot (arXiv 2401.10935), ScreenSpot-v2 (2410.23218) and ScreenSpot-Pro (2504.07981), from their JSON files.

A sample is one instruction about one screenshot, with the box of the element that it means. How a box is written
follows from the version that is named, never from its numbers: x, y, width and height in v1 and v2 (as SeeClick's
screenspot_test.py and OS-Copilot/ScreenSpot-v2 have it), x1, y1, x2 and y2 in Pro (its eval_screenspot_pro.py), all
in pixels. Copies of v2 exist with corners (v2-xyxy) and, in tables of the Hub, with shares of the image, which are
not read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from groundprune.boxes import Box
from groundprune.data.files import in_format, read_json
from groundprune.data.pictures import ImageFile
from groundprune.data.samples import Sample
from groundprune.errors import GroundPruneError, unknown

NAME = "screenspot"
PLATFORMS = ("mobile", "desktop", "web")
KINDS = ("text", "icon")
_PRO_FILES = (
    "android_studio_macos", "autocad_windows", "blender_windows", "davinci_macos", "eviews_windows", "excel_macos",
    "fruitloops_windows", "illustrator_windows", "inventor_windows", "linux_common_linux", "macos_common_macos",
    "matlab_macos", "origin_windows", "photoshop_windows", "powerpoint_windows", "premiere_windows", "pycharm_macos",
    "quartus_windows", "solidworks_windows", "stata_windows", "unreal_engine_windows", "vivado_windows",
    "vmware_macos", "vscode_macos", "windows_common_windows", "word_macos",
)  # fmt: skip


@dataclass(frozen=True)
class ScreenSpot:
    """One version.

    Attributes:
        folder: below the data root.
        names: of its annotation files, without ".json".
        images: the folder of its screenshots, below the data root.
        corners: whether a box is two corners; else one corner, width and height.
        kind: the key that says "text" or "icon".
        group: the key of what results are split by; None: the platform, which the file's name says.
        count: of instructions, as published.
        how: to get it.
        published: whether its authors gave it out in this form.
    """

    folder: Path
    names: tuple[str, ...]
    images: Path
    corners: bool
    kind: str
    group: str | None
    count: int
    how: str
    published: bool = True

    @property
    def files(self) -> tuple[Path, ...]:
        """Below the data root."""
        return tuple(self.folder / f"{name}.json" for name in self.names)

    @property
    def source(self) -> str:
        boxes = "x1, y1, x2, y2" if self.corners else "x, y, width, height"
        return f"{self.folder.name}, {len(self.names)} JSON files, boxes as {boxes}"

    def samples(self, version: str, root: Path) -> list[Sample]:
        """Raises GroundPruneError for files that are missing or in another format."""
        tables = sorted((root / self.folder).glob("**/*.parquet"))
        if tables and not (root / self.files[0]).exists():
            raise GroundPruneError(
                f"{tables[0]} is a table, whose boxes may be in any unit; {NAME}:{version} reads {self.files[0].name}"
            )
        found: list[Sample] = []
        for file, name in zip(self.files, self.names, strict=True):
            path = root / file
            with in_format(path, f"{NAME}:{version}"):
                for number, entry in enumerate(read_json(path)):
                    # By its place, for v1 and v2 name none.
                    id, where = f"{name}-{number}", f"{path}, entry {number}"
                    with in_format(f"{where},", f"{NAME}:{version}"):
                        found.append(self._sample(id, entry, where, name, version, root))
        return found

    def _sample(self, id: str, entry: Any, where: str, name: str, version: str, root: Path) -> Sample:
        kind = entry[self.kind]
        if kind not in KINDS:
            raise GroundPruneError(f"{where}: {self.kind} must be one of {', '.join(KINDS)} (got {kind!r})")
        # "screenspot_mobile_v2": the middle.
        group = name.split("_")[1] if self.group is None else entry[self.group]
        picture = ImageFile(root / self.images, entry["img_filename"])
        box = self._box(entry["bbox"], where)
        return Sample(id, picture, "rec", f"{group} {kind}", entry["instruction"], box, None, version)

    def _box(self, edges: Sequence[Any], where: str) -> Box:
        if len(edges) != 4:
            raise GroundPruneError(f"{where}: bbox {edges} is not four numbers")
        if all(0 <= edge <= 1 for edge in edges):
            raise GroundPruneError(f"{where}: bbox {edges} holds shares of the image, not pixels")
        return Box(*edges) if self.corners else Box.from_xywh(*edges)


def _three(folder: str, images: str, ending: str, how: str, corners: bool = False) -> ScreenSpot:
    names = tuple(f"screenspot_{platform}{ending}" for platform in PLATFORMS)
    place = Path(folder)
    return ScreenSpot(place, names, place / images, corners, "data_type", None, 1272, how, published=not corners)


_V2 = "download https://huggingface.co/datasets/OS-Copilot/ScreenSpot-v2 into screenspot-v2/, and unpack its images"
SCREENSPOT = {
    "v1": _three(
        "screenspot", "screenspot_imgs", "",
        "unpack the annotations and images of https://github.com/njucckevin/SeeClick into screenspot/",
    ),
    "v2": _three("screenspot-v2", "screenspotv2_image", "_v2", _V2),
    "v2-xyxy": _three("screenspot-v2", "screenspotv2_image", "_v2", _V2, corners=True),
    "pro": ScreenSpot(
        Path("screenspot-pro") / "annotations", _PRO_FILES, Path("screenspot-pro") / "images", True, "ui_type",
        "group", 1581, "download https://huggingface.co/datasets/likaixin/ScreenSpot-Pro into screenspot-pro/",
    ),
}  # fmt: skip


def open_screenspot(version: str, root: Path) -> tuple[ScreenSpot, list[Sample]]:
    """The version of a name, and its samples. Raises GroundPruneError for an unknown one, and as `samples` does."""
    if version not in SCREENSPOT:
        raise unknown(f"version of {NAME}", version, SCREENSPOT)
    data = SCREENSPOT[version]
    return data, data.samples(version, root)
