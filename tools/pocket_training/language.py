"""Stage 2: projector and language model on grounding and questions, behind the frozen tower. No pruning anywhere."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import CLIPModel, LlavaForConditionalGeneration

from groundprune.pocket.scenes import PATCH_SIZE, Scene, make_scene

from .hints import Hints
from .model import make_llava
from .optimizers import descend, make_optimizers, set_rate
from .packed_model import packed_hidden
from .packing import PREFIX_BUCKETS, SHARES, Shares, Turn, draw_blocks, draw_gap, draw_prefix, pack, turn
from .runtime import Meter, Workers, autocast, batches, learning_rate, load_state, save_atomically, scene_seed
from .tower import load_clip, to_pixels
from .tower_data import patch_owners
from .vocabulary import BINS, CLOSE, EOS, FIRST_BIN, LM_IDS, LM_WORDS, MIDDLE, OPEN, PAD

END_WEIGHT, WORD_WEIGHT, EDGE_WEIGHT = 0.2, 1.5, 1.0  # of the loss at ends of answers, at words, at box edges
SPREAD = 1.3  # bins: a box edge one bin off is nearly right, and the loss says so


@dataclass(frozen=True)
class LanguagePlan:
    """What fixes a run of this stage, but for its tower."""

    seed: int
    steps: int = 3300
    batch: int = 40  # scenes a step, over all processes
    rec: int = 8  # questions a scene
    vqa: int = 8
    text_length: int = 160
    optimizer: str = "muon"  # "muon" | "adamw"
    peak_rate: float = 3e-3
    warmup: int = 100
    hold: float = 0.5
    weight_decay: float = 0.03
    compile: bool = True
    patch: int = PATCH_SIZE  # pixels
    shares: Shares = field(default_factory=lambda: SHARES)
    hints: float = 0.0  # weight of the loss in the middle of the decoder, see `Hints`
    gaps: bool = True  # whether some rows leave unused positions before the image


def soft_targets() -> Tensor:
    """Row t is the target distribution where token t is right: [V, V]."""
    targets = torch.eye(len(LM_WORDS))
    bins = torch.arange(BINS).float()
    near = torch.exp(-0.5 * ((bins[:, None] - bins) / SPREAD) ** 2)
    for form in (OPEN, MIDDLE, CLOSE):
        first = FIRST_BIN[form]
        targets[first : first + BINS, first : first + BINS] = near / near.sum(1, keepdim=True)
    return targets


class LanguageBatches:
    """`batch(step)`: images and packed text, all a function of the plan and the step."""

    def __init__(self, plan: LanguagePlan, workers: Workers):
        self.plan, self.rows = plan, workers.share(plan.batch)

    def prefix_length(self, step: int) -> int:
        """The same in all processes."""
        rng = np.random.default_rng([self.plan.seed, step, 3])
        return int(rng.choice(list(PREFIX_BUCKETS), p=list(PREFIX_BUCKETS.values())))

    def turn(self, scene: Scene) -> Turn:
        """How questions about a scene and their answers are said."""
        return turn

    def __call__(self, step: int) -> dict[str, Tensor]:
        plan, length = self.plan, self.prefix_length(step)
        images, prefixes, gaps, rows, asked, evidence = [], [], [], [], [], []
        for row in self.rows:
            seed = scene_seed(plan.seed, 1, step * plan.batch + row)
            scene, rng = make_scene(seed), np.random.default_rng([seed, 4])
            images.append(scene.image)
            prefixes.append(draw_prefix(rng, length))
            gaps.append(draw_gap(rng) if plan.gaps else 0)
            blocks = draw_blocks(rng, scene, plan.rec, plan.vqa, shares=plan.shares)
            rows.append(pack(blocks, plan.text_length, self.turn(scene)))
            if plan.hints:
                owner = patch_owners(scene.objects, plan.patch)
                asked += [(len(rows) - 1, column) for column, _ in rows[-1].asked]
                evidence += [np.isin(owner, question.about) for _, question in rows[-1].asked]
        predicts = [(i, column, token) for i, row in enumerate(rows) for column, token in row.predicts]
        # long [2, questions], row and column of the last token before an answer; bool [questions, patches]
        hints = {"asked": torch.tensor(asked).T, "evidence": torch.from_numpy(np.stack(evidence))} if asked else {}
        return {
            **hints,
            "images": torch.from_numpy(np.stack(images)),
            "prefix": torch.tensor([[LM_IDS[PAD]] * (length - len(p)) + p for p in prefixes]),
            "prefix_pad": torch.tensor([length - len(p) for p in prefixes]),
            "gap": torch.tensor(gaps),
            "tokens": torch.from_numpy(np.stack([row.tokens for row in rows])),
            "block": torch.from_numpy(np.stack([row.block for row in rows])),
            "offset": torch.from_numpy(np.stack([row.offset for row in rows])),
            "predicts": torch.tensor(predicts).T,  # long [3, answers]: row, column, token
            "questions": torch.tensor(sum(row.questions for row in rows)),
        }


class Lesson:
    """What is trained in this stage, and how; the studies' variants change one thing each."""

    def model(self, clip: CLIPModel) -> Any:
        """Untrained, but for its tower."""
        return make_llava(clip)

    def batches(self, plan: LanguagePlan, workers: Workers) -> LanguageBatches:
        """What each step learns from."""
        return LanguageBatches(plan, workers)

    def tower(self, model: Any) -> Any:
        """The vision tower of the model."""
        return model.model.vision_tower

    def features(self, tower: Any, pixels: Tensor) -> Tensor:
        """[B, 3, H, W] to [B, N, tower width]; the tower is frozen."""
        with torch.no_grad():
            return tower(pixels).last_hidden_state[:, 1:]

    def visual(self, model: Any, features: Tensor) -> Tensor:
        """The visual tokens that the language model reads: [B, N, D]."""
        return model.model.multi_modal_projector(features)

    def hidden(self, model: Any, visual: Tensor, **batch: Any) -> tuple[Tensor, Tensor, Tensor]:
        """See `packed_hidden`. batch: its further arguments."""
        return packed_hidden(model.model.language_model, visual, **batch)


POCKET_LESSON = Lesson()


class AnswerLoss:
    """Weighted cross entropy at the answers, and how good they are meanwhile."""

    def __init__(self, device: str):
        self.targets = soft_targets().to(device)
        weight = torch.full((len(LM_WORDS),), WORD_WEIGHT)
        weight[FIRST_BIN[OPEN] :] = EDGE_WEIGHT
        weight[LM_IDS[EOS]] = END_WEIGHT
        self.weight = weight.to(device)

    def __call__(self, logits: Tensor, token: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """logits [answers, V], token [answers]"""
        entropy = -(self.targets[token] * logits.float().log_softmax(-1)).sum(-1)
        weight = self.weight[token]
        loss = (entropy * weight).sum() / weight.sum()
        with torch.no_grad():
            edge, word = (weight == EDGE_WEIGHT).float(), (weight == WORD_WEIGHT).float()
            best = logits.argmax(-1)
            # Means by weights: to pick rows by a mask would wait for the device.
            numbers = {
                "edges": (entropy * edge).sum() / edge.sum(),
                "bins off": ((best - token).abs().clamp(max=50) * edge).sum() / edge.sum(),
                "words": ((best == token) * word).sum() / word.sum(),
            }
        return loss, {"loss": loss.detach(), **numbers}


def train_language(
    workers: Workers, plan: LanguagePlan, tower: Path, path: Path, stop_after: int | None = None,
    lesson: Lesson = POCKET_LESSON,
) -> None:  # fmt: skip
    """Train to the end of the plan, or go on from what `path` holds. `stop_after` steps, for tests."""
    torch.manual_seed(plan.seed)
    llava = lesson.model(load_clip(tower))
    nn.Module.to(llava, workers.device)
    answer_loss = AnswerLoss(workers.device)
    learner = nn.ModuleDict({"model": llava})
    if plan.hints:
        learner["hints"] = Hints(llava.config.get_text_config().hidden_size)
        nn.Module.to(learner, workers.device)
    parameters = [p for p in learner.parameters() if p.requires_grad]
    optimizers = make_optimizers(learner, plan.optimizer, plan.peak_rate, plan.weight_decay, betas=(0.9, 0.97))
    state = load_state(path)
    first, seconds, questions = (state[k] for k in ("step", "seconds", "questions")) if state else (0, 0.0, 0)
    if state:
        llava.load_state_dict(state["model"])
        if plan.hints:
            learner["hints"].load_state_dict(state["hints"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
    run_tower = torch.compile(lesson.features) if plan.compile else lesson.features
    hidden_of = torch.compile(lesson.hidden, dynamic=False) if plan.compile else lesson.hidden
    meter = Meter("language model", workers, plan.steps, first, seconds)
    make_batch = lesson.batches(plan, workers)
    for step, batch in enumerate(batches(make_batch, first, plan.steps, workers.device), first):
        set_rate(optimizers, learning_rate(step, plan.steps, plan.warmup, plan.hold))
        questions += int(batch.pop("questions")) * workers.count
        batch = {name: tensor.to(workers.device) for name, tensor in batch.items()}
        row, column, token = batch.pop("predicts")
        evidence = {name: batch.pop(name) for name in ("asked", "evidence") if name in batch}
        pixels = to_pixels(batch.pop("images"))
        with autocast(workers.device):
            visual = lesson.visual(llava, run_tower(lesson.tower(llava), pixels))
            hidden, *middle = hidden_of(llava, visual, **batch)
            logits = llava.lm_head(hidden[row, column])
        loss, numbers = answer_loss(logits, token)
        if plan.hints:
            unhinted = learner["hints"](*middle, **evidence, cell=batch.get("kept"))
            loss, numbers = loss + plan.hints * unhinted, {**numbers, "hints": unhinted.detach()}
        descend(loss, parameters, optimizers, workers.average_gradients)
        meter.add(step, numbers)
        last = step + 1 == plan.steps or step + 1 == stop_after
        if workers.leads and (meter.checkpoint_is_due() or last):
            save_atomically(
                {
                    "model": llava.state_dict(), "optimizers": [o.state_dict() for o in optimizers],
                    "step": step + 1, "seconds": meter.seconds, "questions": questions, "plan": asdict(plan),
                    **hints_of(learner),
                },
                path,
            )  # fmt: skip
        if step + 1 == stop_after:
            return


def hints_of(learner: nn.ModuleDict) -> dict[str, Any]:
    """What a checkpoint holds of the loss in the middle, where there is one."""
    return {"hints": learner["hints"].state_dict()} if "hints" in learner else {}


def load_llava(tower: Path, path: Path) -> LlavaForConditionalGeneration:
    """The trained model from the checkpoints of both stages."""
    llava = make_llava(load_clip(tower))
    llava.load_state_dict(load_state(path)["model"])
    return llava.eval()
