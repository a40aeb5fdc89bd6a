"""Write a checkpoint shard by shard beside its place, and move it there when it is whole."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from transformers import GenerationConfig

from groundprune.errors import GroundPruneError, first_line
from groundprune.models.convert.weights import Weights, finite, read_json, refusing
from groundprune.version import __version__

SHARD_BYTES = 2 * 1024**3
RECORD = "conversion.json"  # what the folder was made from; tells whether an unfinished one can be gone on with

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Part:
    """One tensor of the result: its shape and dtype, and how it is made."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    make: Callable[[], Tensor]


@dataclass(frozen=True)
class Conversion:
    """The folder that was written, and what of which file went into it."""

    folder: Path
    lines: list[str]


@dataclass(frozen=True)
class Result:
    """Everything that the folder will hold."""

    model_class: type
    config: Any
    processor: Any
    generation: dict[str, Any]
    parts: dict[str, Part]
    sources: Sequence[Weights]
    settings: dict[str, Any]

    def write(self, target: str | Path, progress: Progress = lambda done, of: None) -> Path:
        """Write the folder. An interrupted call goes on at the shard where it was, in TARGET.partial.

        In memory at a time: one shard of the result, and what of the sources it is made of. Raises GroundPruneError
        where the parts are not the model's, the target exists, TARGET.partial is of another conversion, or the disk
        refuses.
        """
        target = Path(target)
        self._check()
        if target.exists():
            raise GroundPruneError(f"{target}: exists already; give a folder that does not")
        partial = target.with_name(f"{target.name}.partial")
        try:
            self._write(partial, progress)
            os.replace(partial, target)
        except (OSError, SafetensorError) as error:
            raise GroundPruneError(f"{partial}: cannot be written ({first_line(error)})") from error
        return target

    def _write(self, partial: Path, progress: Progress) -> None:
        shards = self._shards()
        self._begin(partial)
        where: dict[str, str] = {}
        for i, names in enumerate(shards):
            file = f"model-{i + 1:05}-of-{len(shards):05}.safetensors"
            where |= dict.fromkeys(names, file)
            if not (partial / file).is_file():
                try:
                    self._write_shard(partial / file, names)
                except GroundPruneError:  # of a source: what was made of it is worth nothing
                    shutil.rmtree(partial)
                    raise
            progress(i + 1, len(shards))
        self._finish(partial, where)

    def _check(self) -> None:
        with refusing("the configs make no model"), torch.device("meta"):
            expected = {name: tuple(t.shape) for name, t in self.model_class(self.config).state_dict().items()}
        missing, foreign = sorted(expected.keys() - self.parts.keys()), sorted(self.parts.keys() - expected.keys())
        wrong = [name for name in expected.keys() & self.parts.keys() if expected[name] != self.parts[name].shape]
        if missing:
            raise GroundPruneError(f"the files lack {len(missing)} of the model's weights (the first: {missing[0]})")
        if foreign:
            raise GroundPruneError(f"the files hold {len(foreign)} unknown weights (the first: {foreign[0]})")
        if wrong:
            name = min(wrong)
            raise GroundPruneError(f"{name} has shape {self.parts[name].shape}, the model needs {expected[name]}")

    def _shards(self) -> list[list[str]]:
        shards: list[list[str]] = []
        room = 0
        for name, part in self.parts.items():
            size = part.dtype.itemsize * torch.Size(part.shape).numel()
            if size > room:
                shards.append([])
                room = SHARD_BYTES
            shards[-1].append(name)
            room -= size
        return shards

    def _begin(self, partial: Path) -> None:
        files = [file for source in self.sources for file in source.files]
        record = {
            "model": self.config.model_type,
            "groundprune": __version__,
            "sources": [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files],
            "settings": {**self.settings, "shard_bytes": SHARD_BYTES},
        }
        if partial.exists() and (not (partial / RECORD).is_file() or read_json(partial / RECORD) != record):
            raise GroundPruneError(f"{partial}: was begun from other files or settings; remove it to start anew")
        partial.mkdir(parents=True, exist_ok=True)
        (partial / RECORD).write_text(json.dumps(record, indent=1), encoding="utf-8")

    def _write_shard(self, file: Path, names: Sequence[str]) -> None:
        tensors: dict[str, Tensor] = {}
        for name in names:
            part = self.parts[name]
            with refusing(f"{name} cannot be made"):
                # A copy: tensors of one torch file may share memory, which safetensors refuses.
                made = part.make().to(part.dtype, copy=True).contiguous()
            tensors[name] = finite(made, f"{name}, made as {str(part.dtype).removeprefix('torch.')},")
        unfinished = file.with_suffix(".unfinished")
        save_file(tensors, unfinished, metadata={"format": "pt"})
        os.replace(unfinished, file)

    def _finish(self, partial: Path, where: dict[str, str]) -> None:
        size = sum(part.dtype.itemsize * torch.Size(part.shape).numel() for part in self.parts.values())
        index = {"metadata": {"total_size": size}, "weight_map": where}
        (partial / "model.safetensors.index.json").write_text(json.dumps(index, indent=1), encoding="utf-8")
        self.processor.save_pretrained(partial)
        text = self.config.text_config
        ids = {f"{name}_token_id": getattr(text, f"{name}_token_id") for name in ("pad", "bos", "eos")}
        GenerationConfig(**self.generation, **ids).save_pretrained(partial)
        self.config.architectures = [self.model_class.__name__]
        self.config.dtype = torch.float16
        self.config.save_pretrained(partial)
