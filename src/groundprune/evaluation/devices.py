"""Where a model takes its inputs and holds its weights, also where accelerate spread it over devices."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from groundprune.errors import GroundPruneError

NEEDED = "several processes, and device maps,"


def check_placing(device: str | torch.device | None, device_map: Any, processes: int) -> None:
    """Raises GroundPruneError for devices that exclude each other, and where accelerate is needed and not there."""
    if device_map is not None and device is not None:
        raise GroundPruneError("give either a device or a device map, not both")
    if device_map is not None and processes > 1:
        raise GroundPruneError("a device map spreads one model over all devices: give it, or several processes")
    if device_map is not None or processes > 1:
        try:
            import accelerate  # noqa: F401
        except ImportError as error:
            raise GroundPruneError(f"{NEEDED} need accelerate: pip install 'groundprune[eval]'") from error
    if processes > 1 and device is not None and str(device) not in ("cpu", "cuda"):
        raise GroundPruneError(f"of several processes each takes its own device: cpu or cuda, not {device}")


def input_device(model: Any) -> torch.device:
    """Where to put inputs; accelerate takes them from there to the weights."""
    if model.device.type != "meta":
        return model.device
    # Weights that are elsewhere between two uses are on no device; the others' is where all are used.
    used = [place for place in model.hf_device_map.values() if place not in ("cpu", "disk")]
    return torch.device(used[0] if used else "cpu")


def present(model: Any, name: str, weight: Tensor) -> Tensor:
    """A weight of the model's `state_dict`, fetched where accelerate keeps it elsewhere."""
    if not weight.is_meta:
        return weight
    from accelerate.utils import align_module_device

    path, _, leaf = name.rpartition(".")
    module = model.get_submodule(path)
    with align_module_device(module, torch.device("cpu")):
        return getattr(module, leaf).detach().clone()
