"""Stage 1: a small CLIP, trained on images and texts about them; its vision half becomes the tower.

Three losses. Phrases against the class token (sigmoid, "is this in the image?"); patches against the words
for one attribute (softmax, "which colour is here?"); whole questions against patches (softmax over the
patches of the image, "where is what is asked for?"). Patches are compared as CLIP compares images:
`visual_projection(post_layernorm(patch))` with `text_projection(text)`, so that the similarity of texts and
patches that a pruner reads later is the one that was trained.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig

from groundprune.pocket.scenes import IMAGE_SIZE

from .grid_rotary import GRID_ROTARY
from .optimizers import descend, make_optimizers, set_rate
from .runtime import Meter, Workers, autocast, batches, learning_rate, load_state, save_atomically
from .tower_data import BACKGROUND, WORD_TEXTS, Phrases, TowerBatches, TowerPlan, text_ids
from .vocabulary import BOS, CLIP_IDS, CLIP_MAX_TOKENS, CLIP_WORDS, EOS, PAD

MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(1, 3, 1, 1)
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(1, 3, 1, 1)


def make_clip(plan: TowerPlan) -> CLIPModel:
    """A CLIP of half a million parameters, at random, that is told positions as the plan says."""
    vision = CLIPVisionConfig(
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        hidden_act="quick_gelu",
        image_size=IMAGE_SIZE,
        patch_size=plan.patch,
        projection_dim=128,
    )
    text = CLIPTextConfig(
        vocab_size=len(CLIP_WORDS),
        hidden_size=96,
        intermediate_size=192,
        num_hidden_layers=2,
        num_attention_heads=4,
        hidden_act="quick_gelu",
        max_position_embeddings=CLIP_MAX_TOKENS,
        projection_dim=128,
        pad_token_id=CLIP_IDS[PAD],
        bos_token_id=CLIP_IDS[BOS],
        eos_token_id=CLIP_IDS[EOS],
    )
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=128))
    model.set_attn_implementation("eager")
    if plan.positions == "rotary":
        model.vision_model.set_attn_implementation(GRID_ROTARY)
    if plan.positions != "learned":
        # No position embedding: the language model of the pocket is to learn places from its position ids alone.
        positions = model.vision_model.embeddings.position_embedding.weight
        positions.requires_grad_(False).zero_()
    return model


def to_pixels(images: Tensor) -> Tensor:
    """uint8 [B, H, W, 3] to what CLIP's image processor gives: float [B, 3, H, W]."""
    mean, std = MEAN.to(images.device), STD.to(images.device)
    return (images.permute(0, 3, 1, 2).float() / 255 - mean) / std


class TowerLoss(nn.Module):
    """The model with what only its training needs."""

    def __init__(self, clip: CLIPModel, phrases: Phrases, places: float = 0.0):
        super().__init__()
        self.clip, self.places = clip, places
        vision: Any = clip.config.vision_config
        self.side = vision.image_size // vision.patch_size
        # Reads row and column of each patch from what enters the last block and from what leaves it.
        self.readers = nn.ModuleList(nn.Linear(vision.hidden_size, 2 * self.side) for _ in range(2 if places else 0))
        self.fixed_ids: Tensor
        self.phrase_weight: Tensor
        self.phrase_scale, self.phrase_bias = nn.Parameter(torch.tensor(2.3)), nn.Parameter(torch.tensor(-4.0))
        named = [text for group in WORD_TEXTS.values() for text in group]
        self.register_buffer("fixed_ids", text_ids([*phrases.texts, *named, BACKGROUND]), persistent=False)
        self.register_buffer("phrase_weight", phrases.weight, persistent=False)

    def embed_image(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Unit vectors of the class token [B, E] and of the patches [B, N, E]; and how well places can be read."""
        states = self.clip.vision_model(pixel_values=pixels, output_hidden_states=bool(self.places))
        unread = self._unread(states.hidden_states[-2:]) if self.places else torch.zeros((), device=pixels.device)
        hidden = states.last_hidden_state
        hidden = self.clip.visual_projection(self.clip.vision_model.post_layernorm(hidden)).float()
        hidden = F.normalize(hidden, dim=-1)
        return hidden[:, 0], hidden[:, 1:], unread

    def _unread(self, layers) -> Tensor:
        """Cross entropy of row and column, as linear readers see them in the two layers."""
        cell = torch.arange(self.side**2, device=layers[0].device)
        loss = torch.zeros((), device=layers[0].device)
        for reader, hidden in zip(self.readers, layers, strict=True):
            for scores, truth in zip(
                reader(hidden[:, 1:]).float().chunk(2, -1), (cell // self.side, cell % self.side), strict=True
            ):
                loss = loss + F.cross_entropy(scores.flatten(0, 1), truth.repeat(len(hidden)))
        return loss / 4

    def embed_text(self, ids: Tensor) -> Tensor:
        pooled = self.clip.text_model(input_ids=ids).pooler_output
        return F.normalize(self.clip.text_projection(pooled).float(), dim=-1)

    def forward(self, pixels: Tensor, present: Tensor, attributes: Tensor, texts: Tensor, evidence: Tensor):
        image, patches, unread = self.embed_image(pixels)
        embedded = self.embed_text(torch.cat([self.fixed_ids, texts]))
        fixed, asked = embedded.split([len(self.fixed_ids), len(texts)])
        scale = self.clip.logit_scale.exp().clamp(max=100)
        sizes = [len(self.phrase_weight), *(len(group) for group in WORD_TEXTS.values()), 1]
        phrases, *words, background = fixed.split(sizes)

        logits = image @ phrases.T * self.phrase_scale.exp() + self.phrase_bias
        phrase_loss = F.binary_cross_entropy_with_logits(logits, present, reduction="none")
        phrase_loss = (phrase_loss * self.phrase_weight).sum(1).mean()

        region_loss, correct = torch.zeros((), device=image.device), []
        for index, group in enumerate(words):
            scores = patches @ torch.cat([group, background]).T * scale
            target = attributes[:, index]
            covered = target < len(group)
            weight = torch.where(covered, 1.0, 0.25)
            loss = F.cross_entropy(scores.flatten(0, 1), target.flatten(), reduction="none")
            region_loss = region_loss + (loss * weight.flatten()).sum() / weight.sum()
            right = (scores.argmax(-1) == target) & covered
            correct.append(right.sum() / covered.sum())

        patches_of_text = patches.repeat_interleave(len(texts) // len(patches), 0)
        scores = (patches_of_text @ asked[:, :, None])[..., 0] * scale
        question_loss = -(evidence * scores.log_softmax(-1)).sum(-1)
        question_loss = question_loss.sum() / evidence.sum().clamp(min=1)
        return phrase_loss + region_loss + 0.5 * question_loss + self.places * unread, {
            "phrases": phrase_loss.detach(), "regions": region_loss.detach(), "questions": question_loss.detach(),
            "shape": correct[0], "color": correct[1], "size": correct[2], "places": unread.detach(),
        }  # fmt: skip


def train_tower(workers: Workers, plan: TowerPlan, path: Path, stop_after: int | None = None) -> None:
    """Train to the end of the plan, or go on from what `path` holds. `stop_after` steps, for tests."""
    torch.manual_seed(plan.seed)
    make_batch = TowerBatches(plan, workers)
    loss_of = TowerLoss(make_clip(plan), make_batch.phrases, plan.places).to(workers.device)
    parameters = [p for p in loss_of.parameters() if p.requires_grad]
    optimizers = make_optimizers(loss_of, plan.optimizer, plan.peak_rate, weight_decay=0.05, betas=(0.9, 0.98))
    state = load_state(path)
    first, seconds = (state["step"], state["seconds"]) if state else (0, 0.0)
    if state:
        loss_of.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
    run = torch.compile(loss_of) if plan.compile else loss_of
    meter = Meter("tower", workers, plan.steps, first, seconds)
    for step, batch in enumerate(batches(make_batch, first, plan.steps, workers.device), first):
        set_rate(optimizers, learning_rate(step, plan.steps, plan.warmup, plan.hold))
        batch = {name: tensor.to(workers.device) for name, tensor in batch.items()}
        pixels = to_pixels(batch.pop("images"))
        with autocast(workers.device):
            loss, numbers = run(pixels, **batch)
        descend(loss, parameters, optimizers, workers.average_gradients)
        meter.add(step, numbers)
        last = step + 1 == plan.steps or step + 1 == stop_after
        if workers.leads and (meter.checkpoint_is_due() or last):
            state = {"model": loss_of.state_dict(), "optimizers": [o.state_dict() for o in optimizers]}
            save_atomically({**state, "step": step + 1, "seconds": meter.seconds, "plan": asdict(plan)}, path)
        if step + 1 == stop_after:
            return


def load_clip(path: Path) -> CLIPModel:
    """The trained CLIP from a checkpoint of this stage."""
    state, prefix = load_state(path), "clip."
    model, weights = make_clip(TowerPlan(**state["plan"])), state["model"]
    model.load_state_dict({k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)})
    return model.eval()
