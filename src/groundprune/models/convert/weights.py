"""Named tensors of a file or of a folder's shards, read one at a time."""

from __future__ import annotations

import contextlib
import json
import math
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from groundprune.errors import GroundPruneError, first_line

_SINGLE = ("model.safetensors", "pytorch_model.bin")
ODD = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)  # of odd shapes and types
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
        """Raises GroundPruneError where there is none, and for one that holds NaN, infinities or no real numbers."""
        self.shape(name)
        file = self.entries[name].file
        if self._open is None or self._open[0] != file:
            self._open = None  # let go of the old file before the new one is read
            self._open = (file, _opened(file, self.member)[1])
        return finite(self._open[1](name), f"{file}: {name}")


def finite(tensor: Tensor, named: str) -> Tensor:
    """The tensor, where a model can compute with it. Raises GroundPruneError that begins with `named`."""
    if not tensor.is_floating_point():
        raise GroundPruneError(f"{named} holds {tensor.dtype}, not real numbers (quantised weights are not read)")
    wrong = tensor.numel() - int(tensor.isfinite().sum())
    if wrong:
        raise GroundPruneError(f"{named} holds {wrong} values of {tensor.numel()} that are NaN or infinite")
    return tensor


@contextlib.contextmanager
def refusing(what: str, kinds: tuple[type[Exception], ...] = (Exception,)) -> Iterator[None]:
    """Makes what odd files make our code or the libraries raise into one line. Also a decorator."""
    try:
        yield
    except (GroundPruneError, OSError):
        raise
    except kinds as error:
        said = " ".join(str(error).split()) or "nothing was said"
        raise GroundPruneError(f"{what} ({type(error).__name__}: {said[:300]})") from error


def check_numbers(file: Path, config: Mapping[str, Any], counts: tuple[str, ...], reals: tuple[str, ...]) -> None:
    """Raises GroundPruneError where a config gives one of these and it is no whole, or no real, number above 0."""
    for name in (*counts, *reals):
        value = config.get(name)
        whole = name in counts
        kind = int if whole else Real
        if value is None or (isinstance(value, kind) and not isinstance(value, bool) and 0 < float(value) < math.inf):
            continue
        raise GroundPruneError(f"{file}: {name} must be a {'whole ' * whole}number above 0 (got {value!r})")
    width, heads = config.get("hidden_size"), config.get("num_attention_heads")
    if width and heads and width % heads:
        raise GroundPruneError(f"{file}: num_attention_heads must divide hidden_size (got {heads} and {width})")


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
