"""Where `make smol` puts a model made of SmolLM2-135M-Instruct, and its test scenes: no part of the package."""

from __future__ import annotations

from pathlib import Path

from groundprune.caches import cache_folder
from groundprune.errors import GroundPruneError, unknown

NAME = "smol"
SPLITS = ("held-out", "novel-picture", "novel-name")


def home() -> Path:
    """The folder in the user's cache that holds both."""
    return cache_folder(NAME)


def checkpoint_path() -> Path:
    """The folder of the model. Raises GroundPruneError where it was not put together."""
    return _there(home() / "checkpoint")


def tests_path(split: str) -> Path:
    """The file of a split's samples, see `groundprune.data.lines`. Raises GroundPruneError likewise."""
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    return _there(home() / "tests" / f"{split}.jsonl")


def _there(path: Path) -> Path:
    if not path.exists():
        raise GroundPruneError(f"{NAME} is not at {path}: `make {NAME}` in a checkout of groundprune puts it there")
    return path
