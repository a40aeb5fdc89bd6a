"""What `gp.audit` finds our own pruners to do under the policy `official`, on tiny models."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

import groundprune as gp
from groundprune.audits.result import Audit
from groundprune.exactness.tiny import tiny_inputs, tiny_model
from groundprune.pruners import make_pruner, pruner_class, pruner_names
from groundprune.signals import VIDEO, TextEmbedder
from tools.docs.tables import table


class RandomTextTower(TextEmbedder):
    """CLIP's two projections, drawn at random, for pruners that read the text."""

    def text(self, text: str) -> Tensor:
        return torch.randn(1, 16, generator=torch.Generator().manual_seed(len(text)))

    def patches(self, hidden: Tensor) -> Tensor:
        return hidden.float() @ torch.randn(hidden.shape[-1], 16, generator=torch.Generator().manual_seed(5))


@functools.cache
def audited_pruners() -> dict[str, Audit]:
    """By name, half of the tokens kept; the ids that each method's authors give.

    On an image before a LLaVA, or where frames are compared on a video before a Qwen2.5-VL.
    """
    image, video = tiny_model("llava"), tiny_model("qwen2_5_vl")
    given = {
        False: (image, tiny_inputs(image, [(1, 5, 7)])),
        True: (video, tiny_inputs(video, [(1, 5, 7)], modality="video")),
    }
    return {name: gp.audit(_call(name), *given[VIDEO in pruner_class(name).needs]) for name in pruner_names()}


def _call(name: str) -> Any:
    def call(model: Any, inputs: dict[str, Any]) -> None:
        pruner = make_pruner(name, keep=0.5)
        with gp.prune(model, pruner, "official", text=["the mug"], text_tower=RandomTextTower()):
            model.generate(**inputs, max_new_tokens=3, do_sample=False)

    return call


def audits_table() -> str:
    """What each is said to do, and what was read from its rotations, in the last of its layers."""
    header = ["pruner", "its authors' ids", "visual ids", "text behind them", "order", "kept, merged", "exit code"]
    rows = []
    for name, found in audited_pruners().items():
        stage = found.rows[0].stages[-1]
        since = f" from layer {stage.first} on" if stage.first else ""
        rows.append(
            [
                f"`{name}`", f"`{pruner_class(name).official_positions}`", stage.visual + since, stage.text,
                "as in the prompt" if stage.ordered else "changed",
                f"{len(stage.kept)}, {stage.merged}", str(found.exit_code),
            ]
        )  # fmt: skip
    return table(header, rows, left=len(header))
