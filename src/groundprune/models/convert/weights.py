"""Named tensors of a file or of a folder's shards, read one at a time."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from groundprune.errors import GroundPruneError, first_line

_SINGLE = ("model.safetensors", "pytorch_model.bin")
_INDICES = tuple(f"{name}.index.json" for name in _SINGLE)


@dataclass(frozen=True)
class Entry:
    """Where a tensor lies, and what it is, known without reading it."""

    file: Path
    shape: tuple[int, ...]


class Weights:
    """Tensors by name. One file is open at a time, memory-mapped where its format allows.

    path: a file that torch or safetensors wrote, or a folder with model.safetensors, pytorch_model.bin or an index of
    shards. member: the entry of a torch file that holds the tensors, None = the file itself. torch files are read
    with weights_only, so none can run code.

    Raises GroundPruneError for a missing, truncated or foreign file, and for an index that names what is not there.
    """

    def __init__(self, path: str | Path, member: str | None = None):
        self.path, self.member = Path(path), member
        self.entries: dict[str, Entry] = {}
        self._open: tuple[Path, Callable[[str], Tensor]] | None = None
        self.files, promised = _files(self.path)
        for file in self.files:
            shapes = _opened(file, member)[0]  # and let go of the file, which may be in memory as a whole
            self.entries |= {name: Entry(file, shape) for name, shape in shapes.items()}
        lost = sorted(promised - set(self.entries))
        if lost:
            raise GroundPruneError(f"{self.path}: no shard holds {len(lost)} tensors of its index ({lost[0]}, ...)")

    def __contains__(self, name: str) -> bool:
        return name in self.entries

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def shape(self, name: str) -> tuple[int, ...]:
        """Raises GroundPruneError where there is no such tensor."""
        if name not in self.entries:
            raise GroundPruneError(f"{self.path} lacks {name}")
        return self.entries[name].shape

    def read(self, name: str) -> Tensor:
        self.shape(name)
        file = self.entries[name].file
        if self._open is None or self._open[0] != file:
            self._open = None  # let go of the old file before the new one is read
            self._open = (file, _opened(file, self.member)[1])
        return self._open[1](name)


def read_json(path: Path) -> dict[str, Any]:
    """Raises GroundPruneError where the file is missing or holds no JSON object."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise GroundPruneError(f"{path}: no JSON object can be read ({first_line(error)})") from error
    if not isinstance(found, dict):
        raise GroundPruneError(f"{path}: no JSON object but a {type(found).__name__}")
    return found


def load_torch(file: Path) -> dict[str, Any]:
    """What a torch file holds, memory-mapped where it is an archive (torch 1.6 and newer); nothing in it is run.

    Raises GroundPruneError for a damaged file and for one that holds no dict.
    """
    try:
        found = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except Exception as error:  # as in _opened
        raise _unreadable(file, error) from error
    if not isinstance(found, dict):
        raise GroundPruneError(f"{file}: holds no tensors by name but a {type(found).__name__}")
    return found


def _unreadable(file: Path, error: Exception) -> GroundPruneError:
    return GroundPruneError(f"{file}: cannot be read as weights, it may be cut short ({first_line(error)})")


def _files(path: Path) -> tuple[list[Path], set[str]]:
    """The weight files, and the names of tensors that an index promises."""
    if path.is_file():
        return [path], set()
    for single, index in zip(_SINGLE, _INDICES, strict=True):
        if (path / index).is_file():
            where = read_json(path / index).get("weight_map")
            if not isinstance(where, dict) or not where:
                raise GroundPruneError(f"{path / index}: has no weight_map")
            names = sorted(set(map(str, where.values())))
            for name in names:
                if Path(name).name != name or not (path / name).is_file():
                    raise GroundPruneError(f"{path / index}: names {name!r}, which is no file of its folder")
            return [path / name for name in names], set(where)
        if (path / single).is_file():
            return [path / single], set()
    raise GroundPruneError(f"{path}: no weights there (looked for {', '.join((*_SINGLE, *_INDICES))})")


def _opened(file: Path, member: str | None) -> tuple[dict[str, tuple[int, ...]], Callable[[str], Tensor]]:
    """The shapes of a file's tensors, and a function that reads one."""
    if file.suffix == ".safetensors":
        try:
            handle: Any = safe_open(str(file), framework="pt")
        except Exception as error:  # whatever damage makes the reader raise
            raise _unreadable(file, error) from error
        names = list(handle.keys())
        return {name: tuple(handle.get_slice(name).get_shape()) for name in names}, handle.get_tensor
    found = load_torch(file)
    found = found if member is None else found.get(member)
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise GroundPruneError(f"{file}: holds no tensors by name{f' under {member!r}' if member else ''}")
    return {name: tuple(value.shape) for name, value in found.items()}, found.__getitem__
