"""Stage 1: a small CLIP, trained on images and texts about them; its vision half becomes the tower.

Three losses. Phrases against the class token (sigmoid, "is this in the image?"); patches against the words
for one attribute (softmax, "which colour is here?"); whole questions against patches (softmax over the
patches of the image, "where is what is asked for?"). Patches are compared as CLIP compares images:
`visual_projection(post_layernorm(patch))` with `text_projection(text)`, so that the similarity of texts and
patches that a pruner reads later is the one that was trained.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig

from groundprune.pocket.questions import FORMS, describe, draw_question
from groundprune.pocket.scenes import (
    COLORS,
    GRID,
    HELD_OUT_PAIRS,
    IMAGE_SIZE,
    PATCH_SIZE,
    SHAPES,
    SIZES,
    SceneObject,
    make_scene,
    shape_mask,
)

from .optimizers import descend, make_optimizers, set_rate
from .runtime import Meter, Workers, autocast, batches, learning_rate, load_state, save_atomically, scene_seed
from .vocabulary import BOS, CLIP_IDS, CLIP_MAX_TOKENS, CLIP_WORDS, EOS, PAD, clip_ids

PATCHES = GRID * GRID
TEXT_LENGTH = 16
QUESTIONS_PER_SCENE = 2
MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(1, 3, 1, 1)
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(1, 3, 1, 1)
BACKGROUND = "the background"


@dataclass(frozen=True)
class TowerPlan:
    """What fixes a run of this stage."""

    seed: int
    steps: int = 1500
    batch: int = 64  # scenes a step, over all processes
    optimizer: str = "muon"  # "muon" | "adamw"
    peak_rate: float = 3e-3
    warmup: int = 60
    hold: float = 0.3
    compile: bool = True


def make_clip() -> CLIPModel:
    """A CLIP of half a million parameters, at random."""
    vision = CLIPVisionConfig(
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        hidden_act="quick_gelu",
        image_size=IMAGE_SIZE,
        patch_size=PATCH_SIZE,
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
    # No position embedding: the language model is to learn places from its position ids alone.
    positions = model.vision_model.embeddings.position_embedding.weight
    positions.requires_grad_(False).zero_()
    return model


def to_pixels(images: Tensor) -> Tensor:
    """uint8 [B, H, W, 3] to what CLIP's image processor gives: float [B, 3, H, W]."""
    mean, std = MEAN.to(images.device), STD.to(images.device)
    return (images.permute(0, 3, 1, 2).float() / 255 - mean) / std


def patch_owners(objects) -> np.ndarray:
    """Index of the object that covers most of each patch (at least 15% of it), else -1: int64 [144]."""
    owner, best = np.full((GRID, GRID), -1, np.int64), np.full((GRID, GRID), 0.15)
    for index, obj in enumerate(objects):
        left, top, right, bottom = obj.box
        canvas = np.zeros((IMAGE_SIZE, IMAGE_SIZE), np.float32)
        canvas[top:bottom, left:right] = shape_mask(obj.shape, right - left, bottom - top)
        cover = canvas.reshape(GRID, PATCH_SIZE, GRID, PATCH_SIZE).mean((1, 3))
        owner[cover > best] = index
        best = np.maximum(best, cover)
    return owner.ravel()


class Phrases:
    """Every description of an object, but for those that name a held-out pair, and what each fits."""

    def __init__(self):
        self.texts, self.forms, self.likes = [], [], []
        for form in FORMS:
            for like in _objects_of(form):
                if {"color", "shape"} <= set(form) and like.pair in HELD_OUT_PAIRS:
                    continue
                self.texts.append("the " + describe(like, form))
                self.forms.append(form)
                self.likes.append(like)
        # Each form counts the same, however many phrases it has.
        self.weight = torch.tensor([1 / self.forms.count(form) for form in self.forms])
        self._fits: dict[tuple, np.ndarray] = {}

    def fitting(self, objects) -> np.ndarray:
        """Which phrases fit any of the objects: float32 [phrases]."""
        return np.max([self._fitting_one(obj) for obj in objects], axis=0)

    def _fitting_one(self, obj: SceneObject) -> np.ndarray:
        key = (obj.size, obj.color, obj.shape)
        if key not in self._fits:
            fits = [
                all(getattr(like, name) == getattr(obj, name) for name in form)
                for form, like in zip(self.forms, self.likes, strict=True)
            ]
            self._fits[key] = np.array(fits, np.float32)
        return self._fits[key]


def _objects_of(form) -> list[SceneObject]:
    choices = [options if name in form else options[:1] for name, options in _ATTRIBUTES.items()]
    return [SceneObject(s, c, z, (0, 0, 0, 0)) for s in choices[0] for c in choices[1] for z in choices[2]]


_ATTRIBUTES = {"shape": SHAPES, "color": COLORS, "size": SIZES}
_WORD_TEXTS = {
    "shape": [f"the {shape}" for shape in SHAPES],
    "color": [f"the {color} object" for color in COLORS],
    "size": [f"the {size} object" for size in SIZES],
}


def text_ids(texts: list[str]) -> Tensor:
    """Token ids padded on the right: long [texts, 16]."""
    ids = torch.full((len(texts), TEXT_LENGTH), CLIP_IDS[PAD])
    for row, text in enumerate(texts):
        tokens = clip_ids(text)
        ids[row, : len(tokens)] = torch.tensor(tokens)
    return ids


class TowerBatches:
    """`batch(step)`: images, phrase labels, attributes of each patch, questions with their patches."""

    def __init__(self, plan: TowerPlan, workers: Workers):
        self.plan, self.rows, self.phrases = plan, workers.share(plan.batch), Phrases()

    def __call__(self, step: int) -> dict[str, Tensor]:
        images, present, attributes, texts, evidence = [], [], [], [], []
        for row in self.rows:
            seed = scene_seed(self.plan.seed, 0, step * self.plan.batch + row)
            scene, rng = make_scene(seed), np.random.default_rng([seed, 2])
            owner = patch_owners(scene.objects)
            images.append(scene.image)
            present.append(self.phrases.fitting(scene.objects))
            # The last class of every attribute is the background, which index -1 picks.
            codes = [[options.index(getattr(o, name)) for o in scene.objects] + [len(options)]
                     for name, options in _ATTRIBUTES.items()]  # fmt: skip
            attributes.append(np.array(codes)[:, owner])
            for kind in ("rec", "vqa")[:QUESTIONS_PER_SCENE]:
                question = draw_question(rng, scene.objects, kind)
                wanted = np.isin(owner, question.about) if question else np.zeros(PATCHES, bool)
                texts.append(question.text if question else BACKGROUND)
                evidence.append(wanted / max(1, wanted.sum()))
        return {
            "images": torch.from_numpy(np.stack(images)),
            "present": torch.from_numpy(np.stack(present)),
            "attributes": torch.from_numpy(np.stack(attributes)),  # long [B, 3, 144]
            "texts": text_ids(texts),  # long [B * 2, 16]
            "evidence": torch.from_numpy(np.stack(evidence)).float(),  # [B * 2, 144], each row sums to 1 or 0
        }


class TowerLoss(nn.Module):
    """The model with what only its training needs."""

    def __init__(self, clip: CLIPModel, phrases: Phrases):
        super().__init__()
        self.clip = clip
        self.fixed_ids: Tensor
        self.phrase_weight: Tensor
        self.phrase_scale, self.phrase_bias = nn.Parameter(torch.tensor(2.3)), nn.Parameter(torch.tensor(-4.0))
        named = [text for group in _WORD_TEXTS.values() for text in group]
        self.register_buffer("fixed_ids", text_ids([*phrases.texts, *named, BACKGROUND]), persistent=False)
        self.register_buffer("phrase_weight", phrases.weight, persistent=False)

    def embed_image(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Unit vectors of the class token [B, E] and of the patches [B, 144, E]."""
        hidden = self.clip.vision_model(pixel_values=pixels).last_hidden_state
        hidden = self.clip.visual_projection(self.clip.vision_model.post_layernorm(hidden)).float()
        hidden = F.normalize(hidden, dim=-1)
        return hidden[:, 0], hidden[:, 1:]

    def embed_text(self, ids: Tensor) -> Tensor:
        pooled = self.clip.text_model(input_ids=ids).pooler_output
        return F.normalize(self.clip.text_projection(pooled).float(), dim=-1)

    def forward(self, pixels: Tensor, present: Tensor, attributes: Tensor, texts: Tensor, evidence: Tensor):
        image, patches = self.embed_image(pixels)
        embedded = self.embed_text(torch.cat([self.fixed_ids, texts]))
        fixed, asked = embedded.split([len(self.fixed_ids), len(texts)])
        scale = self.clip.logit_scale.exp().clamp(max=100)
        sizes = [len(self.phrase_weight), *(len(group) for group in _WORD_TEXTS.values()), 1]
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
        return phrase_loss + region_loss + 0.5 * question_loss, {
            "phrases": phrase_loss.detach(), "regions": region_loss.detach(), "questions": question_loss.detach(),
            "shape": correct[0], "color": correct[1], "size": correct[2],
        }  # fmt: skip


def train_tower(workers: Workers, plan: TowerPlan, path: Path, stop_after: int | None = None) -> None:
    """Train to the end of the plan, or go on from what `path` holds. `stop_after` steps, for tests."""
    torch.manual_seed(plan.seed)
    make_batch = TowerBatches(plan, workers)
    loss_of = TowerLoss(make_clip(), make_batch.phrases).to(workers.device)
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
    model = make_clip()
    prefix = "clip."
    weights = load_state(path)["model"]
    model.load_state_dict({k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)})
    return model.eval()
