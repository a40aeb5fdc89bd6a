"""Stage 1: the tower and the projector, by what each patch shows.

A visual token is to look like the language model's own embedding of the name of what its patch shows, and to tell
how far the edges of that thing are from the patch. Nothing is asked of where the patch itself is.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPVisionModel
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

from groundprune.pocket.scenes import VALIDATION_SEEDS
from tools.pocket_training.optimizers import make_optimizers
from tools.pocket_training.runtime import autocast, scene_seed
from tools.pocket_training.tower import to_pixels

from .model import llava_config, vision_config
from .names import trained_names
from .pictures import Pictures
from .running import Batch, Numbers, train, trained_state
from .scenes import GRID, PATCH_SIZE, TRAIN, make_scene
from .words import Words

BACKGROUND_WEIGHT = 0.25  # of a patch that shows no thing
CHECKED = 8  # batches of scenes that were never trained on
EDGE_UNIT = 3 * PATCH_SIZE  # pixels


@dataclass(frozen=True)
class TowerPlan:
    """What fixes a run of this stage."""

    seed: int = 0
    steps: int = 2800
    batch: int = 48
    width: int = 256
    layers: int = 6
    peak_rate: float = 3e-3
    warmup: int = 100
    hold: float = 0.4
    edges: float = 1.0  # weight
    compile: bool = True


class Seer(nn.Module):
    """Tower and projector: pixels to visual tokens."""

    def __init__(self, plan: TowerPlan, text_config: Any):
        super().__init__()
        vision = vision_config(plan.width, plan.layers)
        self.tower = CLIPVisionModel(vision)
        # Backward through a fused kernel is slower than this on a CPU.
        self.tower.set_attn_implementation("eager")
        self.projector = LlavaMultiModalProjector(llava_config(vision, text_config, 0))

    def forward(self, pixels: Tensor) -> Tensor:
        """[B, 3, 180, 180] to [B, 81, D]"""
        return self.projector(self.tower(pixels).last_hidden_state[:, 1:])


class SeerLoss(nn.Module):
    """The names and edges that patches show."""

    names: Tensor

    def __init__(self, seer: Seer, names: Tensor, edges: float):
        """names [names, D]: embeddings of the trained names, in their order."""
        super().__init__()
        width = names.shape[1]
        self.seer, self.edge_weight = seer, edges
        self.register_buffer("names", F.normalize(names - names.mean(0), dim=-1), persistent=False)
        self.length = float(names.norm(dim=-1).mean())
        self.background = nn.Parameter(torch.randn(1, width) / width**0.5)
        self.scale = nn.Parameter(torch.tensor(12.0).log())
        self.edges = nn.Linear(width, 4)

    def forward(self, pixels: Tensor, name: Tensor, edge: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """name long [B, 81], the last class is background; edge [B, 81, 4] in EDGE_UNITs."""
        tokens = self.seer(pixels).float()
        classes = torch.cat([self.names, F.normalize(self.background, dim=-1)])
        logits = F.normalize(tokens, dim=-1) @ classes.T * self.scale.exp()
        shown = (name < len(self.names)).float()
        weight = shown + (1 - shown) * BACKGROUND_WEIGHT
        loss = F.cross_entropy(logits.flatten(0, 1), name.flatten(), reduction="none").view_as(weight)
        name_loss = (loss * weight).sum() / weight.sum()
        off = F.smooth_l1_loss(self.edges(tokens), edge, reduction="none", beta=0.1).mean(-1)
        edge_loss = (off * shown).sum() / shown.sum()
        length_loss = (tokens.norm(dim=-1) / self.length - 1).square().mean()
        right = (logits.argmax(-1) == name).float()
        return name_loss + self.edge_weight * edge_loss * 4 + 0.1 * length_loss, {
            "names": name_loss.detach(), "edges": edge_loss.detach(),
            "things right": (right * shown).sum() / shown.sum(),
            "background right": (right * (1 - shown)).sum() / (1 - shown).sum(),
        }  # fmt: skip


class TowerBatches:
    """`batch(step)`: images, and what their patches show."""

    def __init__(self, plan: TowerPlan, pictures: Pictures, split: str = TRAIN):
        self.plan, self.pictures, self.split = plan, pictures, split
        self.classes = {name: i for i, name in enumerate(trained_names())}

    def __call__(self, step: int) -> dict[str, Tensor]:
        """See `SeerLoss`."""
        images, names, edges = [], [], []
        middle = (np.arange(GRID) + 0.5) * PATCH_SIZE
        across = np.stack([np.tile(middle, GRID), np.repeat(middle, GRID)] * 2, -1)
        for row in range(self.plan.batch):
            index = step * self.plan.batch + row
            seed = scene_seed(self.plan.seed, 0, index) if self.split == TRAIN else VALIDATION_SEEDS[index]
            scene = make_scene(self.pictures, seed, self.split)
            images.append(scene.image)
            # Index -1, of patches that show no thing, picks what stands last.
            classes = [self.classes[obj.name] for obj in scene.objects] + [len(self.classes)]
            names.append(np.array(classes)[scene.owner])
            boxes = np.array([obj.box for obj in scene.objects] + [(0, 0, 0, 0)])
            edges.append((boxes[scene.owner] - across) / EDGE_UNIT)
        return {
            "images": torch.from_numpy(np.stack(images)),
            "name": torch.from_numpy(np.stack(names)),
            "edge": torch.from_numpy(np.stack(edges)).float(),
        }


def train_tower(
    plan: TowerPlan, pictures: Pictures, words: Words, embeddings: Tensor, text_config: Any, path: Path,
    device: str = "cpu", loaders: int = 0, stop_after: int | None = None,
) -> None:  # fmt: skip
    """Train to the end of the plan, or go on. embeddings [V, D]: of the language model's own words."""
    torch.manual_seed(plan.seed)
    loss_of = SeerLoss(Seer(plan, text_config), name_embeddings(words, embeddings), plan.edges).to(device)
    optimizers = make_optimizers(loss_of, "muon", plan.peak_rate, weight_decay=0.05, betas=(0.9, 0.98))
    validation = {split: TowerBatches(plan, pictures, split) for split in ("validation", "novel-picture")}

    run = torch.compile(loss_of, dynamic=False) if plan.compile else loss_of

    def loss(batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        with autocast(device):
            return run(to_pixels(batch["images"]), batch["name"], batch["edge"])

    def measure() -> Numbers:
        found: Numbers = {}
        for split, batches in validation.items():
            with torch.no_grad():
                numbers = [loss({k: v.to(device) for k, v in batches(step).items()})[1] for step in range(CHECKED)]
            for name in numbers[0]:
                found[f"{split} {name}"] = float(torch.stack([each[name] for each in numbers]).mean())
        return found

    train(
        loss_of, optimizers, plan, TowerBatches(plan, pictures), loss, path, told={"stage": "tower", **asdict(plan)},
        measure=measure, measure_every=500, device=device, loaders=loaders, stop_after=stop_after,
    )  # fmt: skip


def name_embeddings(words: Words, embeddings: Tensor) -> Tensor:
    """Of the trained names as they stand in a sentence, [names, D]; the mean where a name is several tokens."""
    return torch.stack([embeddings[words.ids(f" {name}")].mean(0) for name in trained_names()])


def load_seer(path: Path, plan: TowerPlan, text_config: Any) -> Seer:
    """The trained tower and projector. Raises GroundPruneError where there is none."""
    state = trained_state(path, plan, "tower", "tower")
    seer, prefix = Seer(plan, text_config), "seer."
    seer.load_state_dict({k.removeprefix(prefix): v for k, v in state["model"].items() if k.startswith(prefix)})
    return seer
