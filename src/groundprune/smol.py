"""Where `make smol` puts a model made of SmolLM2-135M-Instruct, and its test scenes: no part of the package."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

from groundprune.caches import cache_folder
from groundprune.errors import GroundPruneError, unknown

NAME = "smol"
SPLITS = ("held-out", "novel-picture", "novel-name")
PACKED = Path(__file__).parents[2] / "models" / "smol.safetensors"  # what was learnt, in a checkout
MADE_OF = "made-of"  # written last: the digest of the packed file that all of the folder was made of


def home() -> Path:
    """The folder in the user's cache that holds both."""
    return cache_folder(NAME)


def is_smol(model: str | Path) -> bool:
    """Whether it is the model's name or its folder."""
    return str(model) == NAME or Path(model).absolute() == (home() / "checkpoint").absolute()


def checkpoint_path() -> Path:
    """The folder of the model. Raises GroundPruneError where it was not put together, or of another packed file."""
    return _made("checkpoint")


def tests_path(split: str) -> Path:
    """The file of a split's samples, see `groundprune.data.lines`. Raises GroundPruneError likewise."""
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    return _made("tests") / f"{split}.jsonl"


def digest(packed: Path) -> str:
    """SHA-256 of the packed file, in hex digits."""
    return _digest(packed, packed.stat().st_mtime_ns)


@functools.cache  # a model that is loaded asks for its folder ten times
def _digest(packed: Path, changed: int) -> str:
    with packed.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _made(part: str) -> Path:
    made_of, how = home() / MADE_OF, f"`make {NAME}` in a checkout of groundprune"
    if not made_of.is_file():
        raise GroundPruneError(f"{NAME} is not at {home()}: {how} puts it there")
    if PACKED.is_file() and made_of.read_text("utf-8") != digest(PACKED):
        raise GroundPruneError(f"{NAME} at {home()} was made of another file than {PACKED}: {how} makes it anew")
    return home() / part
