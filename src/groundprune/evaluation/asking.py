"""Which questions a run asks: what of them two runs must share, and the parts in which they are answered."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from itertools import chain
from typing import Any

from groundprune.data import DataSet, Sample
from groundprune.data.sources import DRAWN
from groundprune.errors import GroundPruneError
from groundprune.evaluation.identity import samples_fingerprint
from groundprune.families.grounding import Grounding

_WORDING_OF = {"seg_prompt": "seg", "point_prompt": "point", "point_codec": "point"}  # kinds that are seldom asked


def refuse_repeated(data: DataSet) -> None:
    """Raises GroundPruneError where two samples share an id."""
    if len({s.id for s in data.samples}) != len(data.samples):
        raise GroundPruneError(f"{data.name}: two samples share an id")


def asked(data: DataSet, protocol: str, seed: int, limit: int | None) -> dict[str, Any]:
    """What of a run says which questions were asked, and how they were read."""
    about = {
        "protocol": protocol, "data": data.name, "split": data.split, "source": data.source,
        "seed": seed, "limit": limit, "samples": samples_fingerprint(data.samples),
    }  # fmt: skip
    counts = Counter(sample.kind for sample in data.samples)
    if len(counts) == 1 and set(counts) <= {"seg", "point"}:
        about["task"] = next(iter(counts))
    if data.name in DRAWN:
        equal = len(set(counts.values())) == 1
        about |= {"scenes": next(iter(counts.values()))} if equal else {"asked": dict(counts)}
    return about


def how_asked(grounding: Grounding, data: DataSet) -> dict[str, str | None]:
    """What of a checkpoint's wording was used; that for outlines and points only where they are asked for."""
    kinds = {sample.kind for sample in data.samples}
    unused = {key for key in _WORDING_OF if _WORDING_OF[key] not in kinds}
    return {key: value for key, value in asdict(grounding).items() if key not in unused}


def windows(data: DataSet, images: int) -> list[list[Sample]]:
    """The samples in parts of at most so many images, those about one image together.

    Scenes, which are drawn in memory, are one part.
    """
    groups: dict[str, list[Sample]] = {}
    for sample in data.samples:
        groups.setdefault(sample.image_key, []).append(sample)
    if data.name == "scenes":
        return [data.samples]
    several = list(groups.values())
    return [list(chain(*several[i : i + images])) for i in range(0, len(several), images)]
