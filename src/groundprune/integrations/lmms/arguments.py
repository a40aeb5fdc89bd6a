"""What `--model_args` say, checked before a model is loaded."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from typing import Any

from groundprune.checkpoints.hub import POCKET
from groundprune.errors import GroundPruneError, unknown
from groundprune.evaluation.specs import Setting

STOCK = "none"  # the pruner that is none


@dataclass(frozen=True)
class Arguments:
    """What lmms-eval's parser made of the words: numbers are int or float by then, and true and false are bool.

    pretrained: as in `gp.load`. pruner: in text, see `groundprune.pruners.spec`, or "none". keep, tokens: its
    budget, where the text has none. positions: the policy. text_tower: see `gp.prune_inputs`. dtype, device: see
    `gp.load`. device_map, attn_implementation: of `from_pretrained`. batch_size: prompts that run together.
    """

    pretrained: str = POCKET
    pruner: str = STOCK
    keep: float | str | None = None
    tokens: int | str | None = None
    positions: str = "preserved"
    text_tower: str | None = None
    dtype: str = "auto"
    device: str | None = None
    device_map: str | None = None
    attn_implementation: str | None = None
    batch_size: int = 1

    @staticmethod
    def of(given: dict[str, Any]) -> Arguments:
        """Raises GroundPruneError for an unknown name, with those that there are, and a batch size of no rows."""
        names = [field.name for field in fields(Arguments)]
        # The limit of sizes that are found out, which none here are.
        given = {name: value for name, value in given.items() if name != "max_batch_size"}
        for name in given:
            if name not in names:
                raise unknown("argument of the model groundprune", name, names)
        size = str(given.get("batch_size", 1))
        if not size.isdecimal() or int(size) < 1:
            raise GroundPruneError(f"batch_size must be a whole number of at least 1 (got {size!r})")
        return Arguments(**{**given, "batch_size": int(size)})

    @property
    def setting(self) -> Setting:
        """Raises GroundPruneError for an unknown pruner or policy, and a budget that is missing or out of range."""
        pruner = None if self.pruner == STOCK else str(self.pruner)
        return Setting.of(pruner, self.keep, self.tokens, str(self.positions))

    @property
    def placement(self) -> dict[str, Any]:
        """For `gp.load`: one GPU a process, unless the words say otherwise.

        Raises GroundPruneError for a device_map beside several processes, each of which would take all GPUs.
        """
        alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
        if self.device_map is not None:
            if not alone:
                raise GroundPruneError("device_map spreads one model over all devices: start one process alone")
            return {"device_map": self.device_map}
        return {"device": self.device if alone else _own_device(self.device)}


def _own_device(device: str | None) -> str:
    import torch

    found = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if found == "cuda" else found
