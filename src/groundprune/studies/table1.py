"""Table 1 of GAP (arXiv 2506.21873): what the position policy is worth, by model, pruner and benchmark."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from groundprune.checkpoints.load import read_config
from groundprune.data import gqa, open_data, refcoco
from groundprune.data.refcoco import REFCOCO
from groundprune.errors import GroundPruneError, Unservable, first_line, unknown
from groundprune.evaluation.specs import MAIN_POSITIONS, Setting, compare_settings
from groundprune.evaluation.summary import Summary
from groundprune.families import families
from groundprune.pruners import pruner_class
from groundprune.signals import CLIP_PATCHES, CLIP_TEXT
from groundprune.studies.published import PUBLISHED, REC_SPLITS

PRUNERS = ("cls-visual", "text-visual", "random", "spatial", "prumerge", "trim")
DATA = (*REC_SPLITS, "gqa:testdev")
KEEP = "0.5"
# Of an estimate of time: sustained by one large GPU in half precision, prompts 64 at a time.
FLOPS, BANDWIDTH, BATCH = 200e12, 2e12, 64
BASIS = (
    "hours are an estimate, nothing was measured: 2 x parameters x tokens of a prompt at 200 TFLOP/s, and one "
    "reading of 16-bit weights per 64 answers and new token (30 of a box, 4 of an answer) at 2 TB/s; 60 tokens of "
    "text; the vision tower, which runs once per image, and the loading of models are left out"
)


@dataclass(frozen=True)
class Model:
    """parameters: of the LLM. tokens: visual ones of an image, unpruned. protocol: that of the published numbers.

    side: patches along an edge of what the tower sees at a time.
    """

    family: str
    parameters: float
    tokens: int
    protocol: str
    side: int


MODELS = {
    "llava-1.5-7b": Model("llava", 6.7e9, 576, "paper", 24),
    "llava-1.5-13b": Model("llava", 13e9, 576, "paper", 24),
    "llava-next": Model("llava_next", 6.7e9, 2880, "paper", 24),
    "shikra": Model("shikra", 6.7e9, 256, "native", 16),
    "minigpt-v2": Model("minigpt-v2", 6.7e9, 256, "native", 32),
}


@dataclass(frozen=True)
class Checkpoint:
    """Where a model is. text_tower: of pruners that read the text; by default the checkpoint's own `clip` folder."""

    path: Path
    text_tower: Path | None = None


@dataclass(frozen=True)
class Cell:
    """One number. lacks: all for which it cannot be had here. hours: of one GPU, None where the count is unknown.

    warning: how the checkpoint differs from what its name says. ours, published: percent; None where there is none.
    samples: answers that `ours` is over.
    """

    model: str
    data: str
    setting: str
    lacks: tuple[str, ...]
    hours: float | None
    published: float | None
    ours: float | None = None
    samples: int = 0
    warning: str | None = None

    @property
    def missing(self) -> str | None:
        return "; ".join(self.lacks) or None

    @property
    def difference(self) -> float | None:
        return None if self.ours is None or self.published is None else round(self.ours - self.published, 2)


def read_checkpoints(path: str | Path) -> dict[str, Checkpoint]:
    """From TOML: a table per model of MODELS, with `checkpoint` and, where needed, `text_tower`; folders.

    Relative ones are below the file's own; a name with a dot is quoted: ["llava-1.5-7b"].

    Raises GroundPruneError for a file that is not so.
    """
    path = Path(path)
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise GroundPruneError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise GroundPruneError(f"{path} is no TOML: {first_line(error)}") from error
    found = {}
    for name, table in content.items():
        if name not in MODELS:
            raise unknown(f"model in {path}", name, MODELS)
        if not isinstance(table, dict) or "checkpoint" not in table or set(table) - {"checkpoint", "text_tower"}:
            raise GroundPruneError(f"{path}, {name}: give checkpoint and, where needed, text_tower")
        if not all(isinstance(value, str) for value in table.values()):
            raise GroundPruneError(f"{path}, {name}: checkpoint and text_tower must be text")
        places = {key: path.parent / value for key, value in table.items()}
        found[name] = Checkpoint(places["checkpoint"], places.get("text_tower"))
    return found


def plan(
    checkpoints: dict[str, Checkpoint], root: str | Path, models: Iterable[str] = MODELS, data: Iterable[str] = DATA
) -> list[Cell]:
    """Every cell, with what it lacks; runs and loads nothing.

    Raises GroundPruneError for unknown models or data.
    """
    cells, models, data = [], list(models), list(data)
    for kind, given, known in (("model", models, MODELS), ("data", data, DATA)):
        for name in given:
            if name not in known:
                raise unknown(f"{kind} of table 1", name, known)
    counts = {spec: _count(spec, Path(root)) for spec in data}
    for name in models:
        place = checkpoints.get(name)
        config, lack = _config(name, place)
        warning = None if config is None else _differs(name, config)
        without = {setting: _missing(name, place, setting) for setting in settings()}
        for spec, (count, lacking) in counts.items():
            for setting, (never, more) in without.items():
                lacks = (never,) if never else (*lack, *more, *lacking)
                hours = None if count is None else _hours(MODELS[name], setting, count, spec.startswith("gqa"))
                published = PUBLISHED.get((name, spec, setting.id))
                cells.append(Cell(name, spec, setting.id, lacks, hours, published, warning=warning))
    return cells


def settings() -> list[Setting]:
    """Unpruned, and every pruner under both policies."""
    return compare_settings(PRUNERS, [KEEP], MAIN_POSITIONS)


def table1(
    checkpoints: dict[str, Checkpoint],
    root: str | Path,
    out: str | Path,
    models: Iterable[str] = MODELS,
    data: Iterable[str] = DATA,
    **options: Any,
) -> list[Cell]:
    """Run what can be run, resumable: one folder below `out` per model and benchmark. options: as of `evaluate`."""
    from groundprune.evaluation import evaluate

    cells = plan(checkpoints, root, models, data)
    found: list[Cell] = []
    for name, spec in dict.fromkeys((cell.model, cell.data) for cell in cells):
        mine = [cell for cell in cells if (cell.model, cell.data) == (name, spec)]
        possible = {cell.setting for cell in mine if cell.missing is None}
        if not possible:
            found += mine
            continue
        place = checkpoints[name]
        summary = evaluate(
            place.path, spec, [p for p in PRUNERS if any(s.startswith(f"{p}/") for s in possible)], [KEEP],
            MAIN_POSITIONS, MODELS[name].protocol, Path(out) / name / spec.replace(":", "-"), data_root=root,
            text_tower=place.text_tower, **options,
        )  # fmt: skip
        found += [_filled(cell, summary) for cell in mine]
    return found


def _filled(cell: Cell, summary: Summary) -> Cell:
    result = summary.result(cell.setting)
    if result is None:
        return cell
    total = (result.vqa if cell.data.startswith("gqa") else result.rec).total
    ours = round(100 * total.accuracy, 2)
    return replace(cell, lacks=(), ours=ours, samples=total.n)


def _count(spec: str, root: Path) -> tuple[int | None, list[str]]:
    """How many samples there are, or should be; and which files are missing."""
    name, _, split = spec.partition(":")
    files = (*REFCOCO[name].files, refcoco.IMAGES) if name in REFCOCO else (gqa.FILE, gqa.IMAGES)
    absent = [f"{root / file} (see `groundprune data check`)" for file in files if not (root / file).exists()]
    published = REFCOCO[name].counts[split] if name in REFCOCO else None
    if not all((root / file).exists() for file in files[:-1]):  # the last is the folder of the images
        return published, absent
    try:
        return len(open_data(spec, root).samples), absent
    except GroundPruneError as error:
        return None, [*absent, str(error)]


def _config(name: str, place: Checkpoint | None) -> tuple[Any, list[str]]:
    """The checkpoint's config, or None and what is missing."""
    if place is None:
        return None, [f"a checkpoint of {name} in the TOML file"]
    if not place.path.is_dir():
        return None, [f"the folder {place.path}"]
    try:
        return read_config(place.path), []
    except GroundPruneError as error:
        return None, [f"a checkpoint in its folder ({error})"]


def _differs(name: str, config: Any) -> str | None:
    """How a config differs from what the name says: its family, its tower's patches, the size of its LLM."""
    model, found = MODELS[name], []
    types = families()[model.family].model_types
    if config.model_type not in types:
        found.append(f"model type {config.model_type}, not {' or '.join(types)}")
    edge, patch = (getattr(getattr(config, "vision_config", None), key, None) for key in ("image_size", "patch_size"))
    side = edge // patch if isinstance(edge, int) and isinstance(patch, int) else None
    if side != model.side:
        seen = "no square of patches" if side is None else f"{side**2} patches"
        found.append(f"{seen} of an image, not {model.side**2}")
    text = config.get_text_config()
    sizes = ("hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size")
    width, inner, layers, words = (getattr(text, size, 0) for size in sizes)
    parameters = layers * (4 * width**2 + 3 * width * inner) + 2 * words * width
    if not 0.8 < parameters / model.parameters < 1.25:
        found.append(f"an LLM of {parameters / 1e9:.3g}e9 parameters, not {model.parameters / 1e9:.3g}e9")
    return "; ".join(found) or None


def _missing(name: str, place: Checkpoint | None, setting: Setting) -> tuple[str | None, list[str]]:
    """Why no checkpoint can serve it, and what it lacks beside the checkpoint."""
    needs = pruner_class(setting.pruner).needs if setting.pruner else frozenset()
    family = families()[MODELS[name].family]
    try:
        for need in sorted(needs, key=str):
            family.check(family.tiny_config(), need)
    except Unservable as error:
        return str(error), []
    if not needs & {CLIP_TEXT, CLIP_PATCHES}:
        return None, []
    tower = None if place is None else place.text_tower or place.path / "clip"
    if tower is not None and tower.is_dir():
        return None, []
    if place is not None and place.text_tower is not None:
        return None, [f"the folder {tower}"]
    return None, [f"text_tower of {name} in the TOML file, for pruners that read the text"]


def _hours(model: Model, setting: Setting, count: int, words: bool) -> float:
    tokens = 60 + model.tokens * (1.0 if setting.keep is None else float(setting.keep))
    prefill = count * 2 * model.parameters * tokens / FLOPS
    decode = count / BATCH * (4 if words else 30) * 2 * model.parameters / BANDWIDTH
    return (prefill + decode) / 3600
