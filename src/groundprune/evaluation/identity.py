"""What a result belongs to: the weights, the samples, and the software that made it."""

from __future__ import annotations

import hashlib
import platform
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from groundprune.data.samples import Sample
from groundprune.evaluation.devices import present
from groundprune.pruners.spec import Spec
from groundprune.version import __version__

_BEGINNING = 2**20  # bytes of a file: the header of safetensors, which names every weight, and the first weights
_LEADING = 64  # values per weight: training changes all of them, and a large model is not read as a whole


def weights_fingerprint(model: Any) -> str:
    """16 hex digits over every weight's name, shape and leading values; of a quantised one's parts, over theirs."""
    digest = hashlib.blake2b(digest_size=8)
    if getattr(model, "is_quantized", False):  # how the weights are computed with is no weight
        digest.update(repr(model.config.quantization_config.to_dict()).encode())
    for name, weight in _weights(model):
        leading = weight.detach().flatten()[:_LEADING].float().cpu()
        digest.update(f"{name} {tuple(weight.shape)} ".encode() + leading.numpy().tobytes())
    return digest.hexdigest()


def _weights(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    if not getattr(model, "is_quantized", False):
        for name, tensor in model.state_dict().items():
            yield name, present(model, name, tensor)
        return
    # bitsandbytes' 4-bit layers do not survive being asked for their state after a forward on a CPU.
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        yield from _plain(name, present(model, name, tensor).detach())


def _plain(name: str, tensor: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    if not is_traceable_wrapper_subclass(tensor):
        yield name, tensor
        return
    for part in tensor.__tensor_flatten__()[0]:
        yield from _plain(f"{name}.{part}", getattr(tensor, part))


def samples_fingerprint(samples: Iterable[Sample]) -> str:
    """16 hex digits over every sample: its words, its box, and its pixels or, of an image that is not in memory, its
    name and its size in bytes."""
    digest = hashlib.blake2b(digest_size=8)
    for s in samples:
        box = None if s.box is None else [float(edge) for edge in s.box]
        about = (s.id, s.kind, s.type, s.text, box, s.answer, *_mask(s))
        if isinstance(s.picture, Image.Image):
            digest.update(repr((*about, s.picture.size, s.picture.mode)).encode() + s.picture.tobytes())
        else:
            digest.update(repr((*about, s.picture.key, s.picture.size)).encode())
    return digest.hexdigest()


def _mask(sample: Sample) -> tuple[str, ...]:
    """Of a sample that is answered by an outline; boxes and words do not depend on it."""
    if sample.kind != "seg":
        return ()
    mask = sample.mask
    return (mask.tobytes().hex() if isinstance(mask, np.ndarray) else repr(mask),)


def pruner_files(pruners: Sequence[str]) -> dict[str, str]:
    """16 hex digits over each file that a pruner of one's own ("file.py:Class") comes from. pruners: in text."""
    files = sorted({file for text in pruners if (file := Spec.parse(text).file) is not None})
    return {file: hashlib.blake2b(Path(file).read_bytes(), digest_size=8).hexdigest() for file in files}


def files_fingerprint(folder: Path) -> str:
    """16 hex digits over the weight files of a checkpoint that is never loaded here: names, sizes and beginnings."""
    digest = hashlib.blake2b(digest_size=8)
    for file in sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin")):
        with file.open("rb") as content:
            digest.update(f"{file.name} {file.stat().st_size} ".encode() + content.read(_BEGINNING))
    return digest.hexdigest()


def about_this_run(
    device: str | torch.device, batch_size: int, layers: int, versions: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Command, versions, date (UTC), device, batch size: what may differ between two runs of one comparison.

    layers: of the LLM. versions: of further software.
    """
    device = torch.device(device)
    on_gpu = device.type == "cuda"
    return {
        "command": shlex.join([*_program(), *sys.argv[1:]]),
        "versions": {
            "groundprune": __version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
            **(versions or {}),
        },
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": torch.cuda.get_device_name(device) if on_gpu else f"{device}, {torch.get_num_threads()} threads",
        "batch_size": batch_size,
        "llm_layers": layers,
    }


def _program() -> list[str]:
    spec = getattr(sys.modules["__main__"], "__spec__", None)  # of `python -m`; None of a script
    return ["python", "-m", spec.name.removesuffix(".__main__")] if spec else [Path(sys.argv[0]).name]
