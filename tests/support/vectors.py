"""What the official functions gave on fixed random tensors; see tests/pruners/golden/README.md."""

import json
from pathlib import Path

import pytest
import torch

from support.closeness import assert_near

FOLDER = Path(__file__).parents[1] / "pruners" / "golden"


def cases(method, *, where=lambda case: True):
    """A pytest parameter per case, official failures left out."""
    every = json.loads((FOLDER / f"{method}.json").read_text(encoding="utf-8"))["cases"]
    chosen = [case for case in every if "official_raises" not in case and where(case)]
    return [pytest.param(case, id=case["case"]) for case in chosen]


def failures(method):
    """The cases in which the official code throws."""
    every = json.loads((FOLDER / f"{method}.json").read_text(encoding="utf-8"))["cases"]
    return [pytest.param(case, id=case["case"]) for case in every if "official_raises" in case]


def inputs(case):
    """The case's tensors, redrawn; fails where the random generator is another one."""
    return [_draw(recipe) for recipe in case["inputs"]]


def _draw(recipe):
    generator = torch.Generator().manual_seed(recipe["seed"])
    x = torch.randn(*recipe["shape"], generator=generator, dtype=torch.float32) * recipe["scale"]
    if recipe["post"] == "layer_softmax_causal":
        x = x.masked_fill(torch.ones(x.shape[-2:]).bool().triu(1), -torch.inf)
    if recipe["post"] != "none":
        x = x.softmax(-1)
    assert_near(x.flatten()[:3], recipe["check"])
    return x
