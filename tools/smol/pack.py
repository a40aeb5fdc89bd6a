"""What was learnt, in one small file: the language model itself comes from its own package.

Matrices of the language model are kept as what was added to them, in 255 steps a row; all else in bfloat16.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from .learner import Learner
from .tower import Seer
from .words import Words

STEPS, UNIT = ".steps", ".unit"  # int8 [rows, columns], and what one step is in each row: float32 [rows, 1]


def pack(learner: Learner, known: dict[str, Tensor], path: Path) -> None:
    """known: the decoder's weights as they were pretrained, by their names in it."""
    tower = {f"seer.tower.{name}": weight for name, weight in learner.seer.tower.state_dict().items()}
    kept: dict[str, Tensor] = {}
    for name, weight in [*tower.items(), *learner.named_parameters()]:
        before = known.get(name.removeprefix("decoder."))
        if name.startswith("hints.") or (name.startswith("decoder.") and not weight.requires_grad):
            continue  # of training alone, or as it was
        if before is not None and weight.ndim == 2:
            change = weight.detach().float() - before.float()
            unit = change.abs().amax(1, keepdim=True).clamp(min=1e-12) / 127
            kept[name + STEPS], kept[name + UNIT] = (change / unit).round().to(torch.int8), unit
        else:
            kept[name] = weight.detach().bfloat16().contiguous()
    save_file(kept, path)


def unpack(path: Path, words: Words, decoder: Any, seer: Seer) -> Learner:
    """The learner of a file. decoder: the language model without its head, as it was pretrained; it is changed."""
    kept = load_file(path)
    learner = Learner(seer, decoder, words.grown(decoder.embed_tokens.weight.detach()), narrow=False)
    weights = learner.state_dict()
    with torch.no_grad():
        for name, value in kept.items():
            if name.endswith(STEPS):
                whole = name.removesuffix(STEPS)
                weights[whole] += value * kept[whole + UNIT]
            elif not name.endswith(UNIT):
                weights[name].copy_(value)
    return learner
