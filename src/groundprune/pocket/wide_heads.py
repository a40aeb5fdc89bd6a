"""The pocket model with attention heads of 64 channels instead of 48: the same function, for engines without the 48.

Queries and keys get channels of zeros, values too, which the output projection ignores. Two things depend on the
number of channels: the scale of the logits, which goes into the queries, and the frequencies of the rotary embedding.
Those of a head of c channels are base^(-2 i / c), so base^(64 / 48) gives the first 24 of 32 pairs what they had.
"""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

WIDE = 64
_COPIED = (
    "chat_template.jinja", "generation_config.json", "grounding.json", "processor_config.json", "tokenizer.json",
    "tokenizer_config.json",
)  # fmt: skip


def write_wide_heads(source: Path, target: Path) -> Path:
    """Write the checkpoint, in fp32, unless `target` is there; two processes may do so at once."""
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=target.name, dir=target.parent))
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    text, narrow = config["text_config"], config["text_config"]["head_dim"]
    weights = load_file(source / "model.safetensors")
    # Published LLaVA checkpoints, and so the engines, have a level in the names that transformers 5 leaves out.
    wide = {
        name.replace("vision_tower.", "vision_tower.vision_model."): _wide(name, weight.float(), narrow)
        for name, weight in weights.items()
    }
    save_file(wide, draft / "model.safetensors", metadata={"format": "pt"})
    text["rope_parameters"]["rope_theta"] **= WIDE / narrow
    text["head_dim"], config["dtype"] = WIDE, "float32"
    (draft / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    for name in _COPIED:
        shutil.copyfile(source / name, draft / name)
    try:
        draft.rename(target)
    except OSError:  # another process was faster
        shutil.rmtree(draft)
        if not target.is_dir():
            raise
    return target


def _wide(name: str, weight: Tensor, narrow: int) -> Tensor:
    """A weight of the language model's attention for heads of WIDE channels; any other as it is."""
    kind = name.split(".")[-2]
    if not name.startswith("language_model.") or kind not in ("q_proj", "k_proj", "v_proj", "o_proj"):
        return weight
    if kind == "o_proj":
        return _spread(weight.T, narrow, rotary=False).T.contiguous()
    scale = math.sqrt(WIDE / narrow) if kind == "q_proj" else 1.0
    return _spread(weight * scale, narrow, rotary=kind != "v_proj")


def _spread(rows: Tensor, narrow: int, rotary: bool) -> Tensor:
    """[heads * narrow, C] -> [heads * WIDE, C], zeros between. rotary: the two halves of a head stay its halves."""
    heads = rows.unflatten(0, (-1, narrow))
    wide = torch.zeros(len(heads), WIDE, rows.shape[1])
    place = torch.arange(narrow)
    if rotary:
        place += (place >= narrow // 2) * (WIDE - narrow) // 2
    wide[:, place] = heads
    return wide.flatten(0, 1)
