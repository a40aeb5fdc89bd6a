"""What table 1 needs: checkpoints that are what they are called, text towers, files; and what of it is missing."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from groundprune.checkpoints.load import read_config
from groundprune.data import gqa, open_data, refcoco
from groundprune.data.refcoco import REFCOCO
from groundprune.errors import GroundPruneError, Unservable, first_line, unknown
from groundprune.evaluation.specs import Setting
from groundprune.families import families
from groundprune.pruners import pruner_class
from groundprune.signals import CLIP_PATCHES, CLIP_TEXT


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


def samples_there(spec: str, root: Path) -> tuple[int | None, list[str]]:
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


def config_there(name: str, place: Checkpoint | None) -> tuple[Any, list[str]]:
    """The checkpoint's config, or None and what is missing."""
    if place is None:
        return None, [f"a checkpoint of {name} in the TOML file"]
    if not place.path.is_dir():
        return None, [f"the folder {place.path}"]
    try:
        return read_config(place.path), []
    except GroundPruneError as error:
        return None, [f"a checkpoint in its folder ({error})"]


def differs(name: str, config: Any) -> str | None:
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


def missing(name: str, place: Checkpoint | None, setting: Setting) -> tuple[str | None, list[str]]:
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
