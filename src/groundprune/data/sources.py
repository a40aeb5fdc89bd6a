"""What `--data` names: a benchmark and its split, a file or folder of one's own, or the pocket's scenes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from groundprune import smol
from groundprune.data.columns import table_samples
from groundprune.data.gqa import SOURCE as GQA_SOURCE
from groundprune.data.gqa import gqa_samples
from groundprune.data.lines import line_samples
from groundprune.data.masks import ready
from groundprune.data.refcoco import REFCOCO
from groundprune.data.samples import Sample
from groundprune.data.scenes import scene_samples
from groundprune.data.screenspot import NAME as SCREENSPOT_NAME
from groundprune.data.screenspot import open_screenspot
from groundprune.errors import GroundPruneError, unknown

HUB = "hub:"
SCENES = "scenes"
FORMS = (
    "scenes, smol:held-out, refcoco:val, refcoco+:testA, refcocog:val, gqa:testdev, gqa:testdev-spatial, "
    "screenspot:v1, screenspot:v2, screenspot:pro, FILE.jsonl, FILE.parquet:SPLIT, FOLDER:SPLIT, hub:OWNER/NAME:SPLIT"
)
DEFAULT_ROOT = Path("data")
DRAWN = (SCENES, smol.NAME)  # what is as large as one asks for
TASKS = ("rec", "seg", "point")  # how referring expressions are answered: by a box, by an outline, by a point


@dataclass(frozen=True, eq=False)
class DataSet:
    """What `open_data` found.

    Attributes:
        name: as asked for.
        split: likewise.
        source: which files it was read from.
        samples: in the order of their file.
        official: the published count, or None.
    """

    name: str
    split: str
    source: str
    samples: list[Sample]
    official: int | None = None


def as_task(data: DataSet, task: str) -> DataSet:
    """The data set with its referring expressions asked for as a task wants them.

    Args:
        data: what was opened.
        task: "rec", as data sets are; "seg": every expression whose object has a mask is answered by an outline;
            "point": every expression is answered by a point, which is right in its object's box. Both leave
            questions out.

    Returns:
        DataSet of at least one sample.

    Raises:
        GroundPruneError: an unknown task, no expression (that has a mask), or pycocotools is missing for masks.
    """
    if task not in TASKS:
        raise unknown("task", task, TASKS)
    if task == "rec":
        return data
    expressions = [s for s in data.samples if s.kind == "rec"]
    if task == "seg":
        ready()
        expressions = [s for s in expressions if s.mask is not None]
    found = [replace(s, kind=task) for s in expressions]
    if not found:
        what = "a mask" if task == "seg" else "a box"
        raise GroundPruneError(f"{data.name}: no expression comes with {what} of what it refers to")
    return replace(data, samples=found)


def scenes_of(model: str | Path) -> str:
    """The scenes that a model was trained for: those of smol for it, the pocket's for any other."""
    return smol.NAME if smol.is_smol(model) else SCENES


def is_drawn(spec: str) -> bool:
    """Whether it names scenes, of which there are as many expressions and questions as one asks for."""
    return spec.partition(":")[0] in DRAWN


def open_data(
    spec: str, root: str | Path | None = None, limit: int | None = None, scenes: int = 500, seed: int = 0
) -> DataSet:
    """The data set of a name; images are not opened.

    Args:
        spec: one of FORMS.
        root: folder of the benchmarks (see docs/evaluation.md), by default `data`; for files of one's own the folder
            of their images.
        limit: the first so many samples; of scenes, expressions and as many questions.
        scenes: how many expressions of the pocket or of smol, and as many questions; of smol at most what its split
            holds.
        seed: which of the pocket's scenes.

    Returns:
        DataSet of at least one sample.

    Raises:
        GroundPruneError: a spec that names nothing, and whatever its reader refuses.
    """
    if limit is not None and limit < 1:
        raise GroundPruneError(f"limit must be a whole number of at least 1 (got {limit})")
    if is_drawn(spec):
        name, _, split = spec.partition(":")
        split, count = split or "held-out", scenes if limit is None else min(limit, scenes)
        if name == SCENES:
            return DataSet(name, split, f"drawn scenes, seed {seed}", list(scene_samples(count, seed, split)))
        if count < 1:
            raise GroundPruneError(f"scenes must be a whole number of at least 1 (got {count})")
        if seed:
            raise GroundPruneError(f"seed must be 0 for {name}, whose scenes are the same for all (got {seed})")
        every = line_samples(smol.tests_path(split))
        kinds = [[sample for sample in every if sample.kind == kind][:count] for kind in ("rec", "vqa")]
        return _some(spec, DataSet(name, split, "scenes of named pictures", [*kinds[0], *kinds[1]]))
    found = _some(spec, _open(spec, None if root is None else Path(root)))
    return found if limit is None else DataSet(found.name, found.split, found.source, found.samples[:limit])


def _some(spec: str, found: DataSet) -> DataSet:
    if not found.samples:
        raise GroundPruneError(f"{spec} holds no samples")
    return found


def _open(spec: str, given: Path | None) -> DataSet:
    root = DEFAULT_ROOT if given is None else given
    name, _, split = spec.partition(":")
    if name in REFCOCO:
        data = REFCOCO[name]
        return DataSet(name, split, data.source, data.samples(split, root), data.counts.get(split))
    if name == "gqa":
        return DataSet(name, split, GQA_SOURCE, gqa_samples(split, root))
    if name == SCREENSPOT_NAME:
        data, samples = open_screenspot(split, root)
        return DataSet(name, split, data.source, samples, data.count)
    if spec.endswith(".jsonl"):
        return DataSet(Path(spec).stem, Path(spec).stem, spec, line_samples(Path(spec), given))
    hub = spec.startswith(HUB)
    place, _, split = spec.removeprefix(HUB).rpartition(":")
    if not place:  # a local file or folder without a split
        place, split = spec.removeprefix(HUB), "val"
    if hub or Path(place).exists():
        folder = Path(place).parent if Path(place).is_file() else Path(place)
        about = f"Hub data set {place}" if hub else f"local data set {place}"
        return DataSet(place, split, about, table_samples(place, split, folder if given is None else given))
    if "/" in spec:
        raise GroundPruneError(f"no data at {spec!r} (allowed: {FORMS})")
    raise unknown("data", spec, [*DRAWN, "gqa", SCREENSPOT_NAME, *REFCOCO])
