"""How the variants' second stage differs from the pocket's, one thing each."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPModel

from groundprune.pocket.scenes import Scene
from tools.pocket_training.language import LanguageBatches, LanguagePlan, Lesson
from tools.pocket_training.model import Decoder, make_llava
from tools.pocket_training.packed_model import packed_hidden
from tools.pocket_training.packing import PLAIN_PREFIX, Turn
from tools.pocket_training.runtime import Workers

from .outlines import outline_turn
from .projectors import ConvProjector, WithCoordinates

VISUAL = 64
# The rest of the pairs turns slowly: by these contents are compared, whatever lies between. Pair 1 of 32 turns once
# in 8 positions, a row of the grid.
SMALL = Decoder(width=128, head=64, theta=2280.0)
PRUNED_KEEP = 0.5  # of the visual tokens, in every other step of a variant that is trained with pruning


@dataclass(frozen=True)
class Variation(Lesson):
    """One change of the lesson, or none.

    projector: "mlp" | "linear" | "conv". coordinates: "" | "before" | "after" the projector. joint: the tower learns
    too. fixed: always the same words before the image. outlines: places are answered by polygons. pruned: "" |
    "preserved" | "reassigned": random tokens are dropped in every other step, with such ids.
    """

    projector: str = "mlp"
    coordinates: str = ""
    joint: bool = False
    fixed: bool = False
    outlines: bool = False
    pruned: str = ""

    def model(self, clip: CLIPModel) -> Any:
        model: Any = make_llava(clip, SMALL)
        model.model.vision_tower.requires_grad_(self.joint)
        config = model.config
        width, out = config.vision_config.hidden_size, config.text_config.hidden_size
        inner: nn.Module = {
            "mlp": lambda: model.model.multi_modal_projector,
            "linear": lambda: nn.Linear(width, out),
            "conv": lambda: ConvProjector(width, out),
        }[self.projector]()
        if self.coordinates:
            before = self.coordinates == "before"
            inner = WithCoordinates(inner, width if before else out, before)
        model.model.multi_modal_projector = inner
        if self.joint and clip.vision_model.config._attn_implementation == "eager":
            positions = model.model.vision_tower.embeddings.position_embedding.weight
            positions.requires_grad_(bool(positions.any()))
        return model

    def batches(self, plan: LanguagePlan, workers: Workers) -> LanguageBatches:
        return _Batches(plan, workers, self)

    def features(self, tower: Any, pixels: Tensor) -> Tensor:
        return tower(pixels).last_hidden_state[:, 1:] if self.joint else super().features(tower, pixels)

    def hidden(self, model: Any, visual: Tensor, **batch: Any) -> tuple[Tensor, Tensor, Tensor]:
        kept = batch.pop("kept", None)
        if kept is None:
            return super().hidden(model, visual, **batch)
        count = visual.shape[1]
        visual = visual.gather(1, kept[:, :, None].expand(-1, -1, visual.shape[2]))
        ids = {"image": kept, "span": count} if self.pruned == "preserved" else {}
        return packed_hidden(model.model.language_model, visual, **batch, **ids)


class _Batches(LanguageBatches):
    def __init__(self, plan: LanguagePlan, workers: Workers, variation: Variation):
        super().__init__(plan, workers)
        self.variation = variation

    def prefix_length(self, step: int) -> int:
        return len(PLAIN_PREFIX) if self.variation.fixed else super().prefix_length(step)

    def turn(self, scene: Scene) -> Turn:
        return partial(outline_turn, scene=scene) if self.variation.outlines else super().turn(scene)

    def __call__(self, step: int) -> dict[str, Tensor]:
        batch = super().__call__(step)
        if self.variation.pruned and step % 2:
            rng = torch.Generator().manual_seed(step * 1_000_003 + self.plan.seed)
            noise = torch.rand(len(batch["tokens"]), VISUAL, generator=rng)
            batch["kept"] = noise.topk(round(PRUNED_KEEP * VISUAL)).indices.sort().values
        return batch
