"""What was learnt, in one small file: the language model itself comes from its own package.

Matrices of the language model are kept as what was added to them, in 255 steps a row; all else in bfloat16.
"""

from collections.abc import Iterator, Set
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from groundprune.errors import GroundPruneError, first_line

from .learner import Learner
from .tower import Seer
from .words import Words

STEPS, UNIT = ".steps", ".unit"  # int8 [rows, columns], and what one step is in each row: float32 [rows, 1]


def pack(learner: Learner, known: dict[str, Tensor], path: Path) -> None:
    """known: the decoder's weights as they were pretrained, by their names in it."""
    kept: dict[str, Tensor] = {}
    for name, weight in _learnt(learner):
        before = known.get(name.removeprefix("decoder."))
        if before is not None and weight.ndim == 2:
            change = weight.detach().float() - before.float()
            unit = change.abs().amax(1, keepdim=True).clamp(min=1e-12) / 127
            kept[name + STEPS], kept[name + UNIT] = (change / unit).round().to(torch.int8), unit
        else:
            kept[name] = weight.detach().bfloat16().contiguous()
    save_file(kept, path)


def _learnt(learner: Learner) -> Iterator[tuple[str, Tensor]]:
    """What is neither of training alone nor as it was."""
    for name, weight in learner.seer.tower.state_dict().items():
        yield f"seer.tower.{name}", weight
    for name, weight in learner.named_parameters():
        as_it_was = name.startswith("decoder.") and not weight.requires_grad
        if not (as_it_was or name.startswith(("hints.", "seer.tower."))):
            yield name, weight


def unpack(path: Path, words: Words, decoder: Any, seer: Seer) -> Learner:
    """The learner of a file. decoder: the language model without its head, as it was pretrained; it is changed.

    Raises GroundPruneError for a file that cannot be read, or that holds other weights than such a learner's.
    """
    try:
        kept = load_file(path)
    except (OSError, SafetensorError) as error:
        raise GroundPruneError(f"{path} cannot be read: {first_line(error)}") from error
    learner = Learner(seer, decoder, words.grown(decoder.embed_tokens.weight.detach()), narrow=False)
    weights = learner.state_dict()
    _refuse_others({name.removesuffix(STEPS).removesuffix(UNIT) for name in kept}, learner, path)
    with torch.no_grad():
        for name, value in kept.items():
            if name.endswith(STEPS):
                whole = name.removesuffix(STEPS)
                weights[whole] += value * kept[whole + UNIT]
            elif not name.endswith(UNIT):
                weights[name].copy_(value)
    return learner


def _refuse_others(names: Set[str], learner: Learner, path: Path) -> None:
    wanted = {name for name, _ in _learnt(learner)}
    if names != wanted:
        odd = sorted(names ^ wanted)
        lacks = "lacks" if odd[0] in wanted else "also holds"
        raise GroundPruneError(f"{path} is not what was learnt: it {lacks} {odd[0]} (and {len(odd) - 1} more differ)")
