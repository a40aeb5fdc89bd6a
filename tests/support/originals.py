"""What the tests of models share; the golden files are described in tests/models/legacy/README.md."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file

import groundprune as gp
from groundprune.boxes.images import load_image
from groundprune.signals import CLS_ATTENTION

DATA = Path(__file__).parents[1] / "models" / "legacy"
SHIKRA, MINIGPT = DATA / "shikra", DATA / "minigpt_v2"
SMALL = {"image_size": 112, "tower_depth": 3, "tower_heads": 4}  # of the golden MiniGPT-v2; no file says so


@dataclass(frozen=True)
class Golden:
    """A converted checkpoint beside its original's results."""

    folder: Path
    model: Any
    processor: Any
    image: Image.Image
    expected: dict[str, Any]
    tensors: dict[str, torch.Tensor]

    @classmethod
    def load(cls, folder: Path, data: Path) -> "Golden":
        model, processor = gp.load(folder)
        expected = json.loads((data / "expected.json").read_text(encoding="utf-8"))
        image, tensors = load_image(data / "image.png"), load_file(data / "expected.safetensors")
        return cls(folder, model, processor, image, expected, tensors)

    def inputs(self, *prompts: str) -> Any:
        images = [self.image] * len(prompts)
        return self.processor(images=images, text=list(prompts), padding=True, return_tensors="pt")


class KeepExactly(gp.Pruner):
    """Keeps the given visual tokens. seen: [H, N], the CLS attention that it was offered."""

    needs = frozenset({CLS_ATTENTION})

    def score(self, signals, layout, stage):
        object.__setattr__(self, "seen", signals.tower_attention(kind="cls"))  # pruners are frozen
        score = torch.zeros(len(layout))
        score[self.wanted] = 1
        return score


def keep_exactly(indices):
    pruner = KeepExactly(tokens=len(indices))
    object.__setattr__(pruner, "wanted", torch.tensor(indices))
    return pruner
