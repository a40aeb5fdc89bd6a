"""The pocket, quantised on loading: wide enough for the blocks of every format, and its boxes mean something."""

from typing import Any

import pytest
import torch

import groundprune as gp
from groundprune.tokens.positions import Preserved

WEIGHTS_ALONE = ["nf4", "torchao-int8"]  # a token's result is a function of that token
ROUNDED = ["torchao-int8-per-token"]  # so it is here, in large steps
SHARED = ["llm-int8", "torchao-int8-per-tensor"]  # other tokens have a say in it


def quantization_config(kind: str) -> Any:
    """What `from_pretrained` takes; skips the test where the package is missing."""
    from transformers import BitsAndBytesConfig, TorchAoConfig

    if kind in ("nf4", "llm-int8"):
        pytest.importorskip("bitsandbytes")
        if kind == "llm-int8":
            return BitsAndBytesConfig(load_in_8bit=True)
        return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    quantization = pytest.importorskip("torchao.quantization")
    if kind == "torchao-int8":
        return TorchAoConfig(quant_type=quantization.Int8WeightOnlyConfig())
    per_row = quantization.PerRow()
    granularity = per_row if kind == "torchao-int8-per-token" else [quantization.PerTensor(), per_row]
    return TorchAoConfig(quant_type=quantization.Int8DynamicActivationInt8WeightConfig(granularity=granularity))


def quantised_pocket(kind: str, **options: Any) -> tuple[Any, Any]:
    return gp.load("pocket", "cpu", quantization_config=quantization_config(kind), **options)


def asked(model: Any, processor: Any, seed: int = 8) -> dict[str, Any]:
    """The inputs of one expression about a scene."""
    scene = gp.scene(seed=seed)
    return dict(gp.inputs_for(model, processor, scene.image, "the small purple object"))


def off_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on one kept token's id is one too large."""

    def ids(self: Any, row: Any) -> tuple[torch.Tensor, int]:
        found = row.original.clone()
        found[:, row.slot[len(row.kept) // 2]] += 1
        return found, 0

    monkeypatch.setattr(Preserved, "ids", ids)
