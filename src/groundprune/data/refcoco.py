"""RefCOCO, RefCOCO+ (Yu et al., arXiv 1608.00272) and RefCOCOg (arXiv 1511.02283), from the official files.

refs(unc).p or refs(umd).p holds referred objects with several expressions each, instances.json their boxes, masks
and images, all of COCO train2014. A sample is one expression: that is what accuracy is counted over.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from groundprune.boxes import Box
from groundprune.data.files import in_format, read_json
from groundprune.data.pickles import read_pickle
from groundprune.data.pictures import ImageFile
from groundprune.data.samples import Sample
from groundprune.errors import unknown

IMAGES = Path("coco") / "train2014"


@dataclass(frozen=True)
class RefCOCO:
    """One of the three. counts: expressions per split where they are published, else None."""

    name: str
    split_by: str
    counts: dict[str, int | None]

    @property
    def files(self) -> tuple[Path, Path]:
        """Below the data root: the expressions, and the objects."""
        return Path(self.name) / f"refs({self.split_by}).p", Path(self.name) / "instances.json"

    @property
    def source(self) -> str:
        return f"official files, {self.files[0].name}"

    def samples(self, split: str, root: Path) -> list[Sample]:
        """Raises GroundPruneError for an unknown split, and for files that are missing or in another format."""
        if split not in self.counts:
            raise unknown(f"split of {self.name}", split, self.counts)
        expressions, objects = (root / file for file in self.files)
        refs, instances = read_pickle(expressions), read_json(objects)
        found: list[Sample] = []
        with in_format(objects, self.name):
            annotations = {entry["id"]: entry for entry in instances["annotations"]}
            files = {entry["id"]: entry["file_name"] for entry in instances["images"]}
            kinds = {c["id"]: c.get("supercategory", "object") for c in instances.get("categories", [])}
        with in_format(expressions, self.name):
            for ref in refs:
                if ref["split"] != split:
                    continue
                object_ = annotations[ref["ann_id"]]
                picture = ImageFile(root / IMAGES, files[ref["image_id"]])
                box, kind = Box.from_xywh(*object_["bbox"]), kinds.get(object_.get("category_id"), "object")
                mask = object_.get("segmentation")
                found += [
                    Sample(str(s["sent_id"]), picture, "rec", kind, s["sent"], box, None, split, mask)
                    for s in ref["sentences"]
                ]
        return found


REFCOCO = {
    data.name: data
    for data in (
        RefCOCO("refcoco", "unc", {"val": 10834, "testA": 5657, "testB": 5095}),
        RefCOCO("refcoco+", "unc", {"val": 10758, "testA": 5726, "testB": 4889}),
        RefCOCO("refcocog", "umd", {"val": 4896, "test": None}),
    )
}
