"""Stage 2: the language model and the projector on grounding and questions, behind the tower. No pruning anywhere."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from groundprune.boxes.geometry import Box, iou
from tools.pocket_training.runtime import autocast
from tools.pocket_training.tower import to_pixels

from .learner import Learner, make_optimizer
from .packing import EARLY_SHARES, Batches, Rows
from .pictures import Pictures
from .running import Batch, Numbers, train, trained_state
from .tower import Seer
from .words import BINS, Words

END_WEIGHT, WORD_WEIGHT, EDGE_WEIGHT = 0.2, 1.5, 1.0  # of the loss at ends of answers, at words, at box edges
SPREAD = 1.6  # bins: a box edge one bin off is nearly right, and the loss says so
TEXT = ("prefix", "prefix_pad", "gap", "tokens", "block", "offset")
RIGHT = 0.5  # IoU
MEASURE_EVERY = 300  # steps


@dataclass(frozen=True)
class LanguagePlan:
    """What fixes a run of this stage, but for its tower."""

    seed: int = 0
    steps: int = 3000
    early: int = 1200  # steps that mostly ask for boxes by names, of twice as many scenes
    batch: int = 4  # scenes
    rec: int = 15  # questions a scene
    vqa: int = 9
    parts: int = 4  # of a scene's text
    length: int = 76  # tokens of a part
    rate: float = 8e-4
    new_rate: float = 1e-3
    warmup: int = 100
    hold: float = 0.6
    hints: float = 0.5  # weight
    checked: int = 32  # validation scenes
    compile: bool = True

    @property
    def rows(self) -> Rows:
        """Behind the early steps, and of validation."""
        return Rows(self.seed, self.batch, self.rec, self.vqa, self.parts, self.length)

    @property
    def early_rows(self) -> Rows:
        """A scene has few names to be found by: so more scenes, and less to ask of each."""
        batch, parts = 2 * self.batch, max(1, self.parts // 2)
        return Rows(self.seed, batch, 11, 2, parts, self.length, EARLY_SHARES, gaps=0)


class AnswerLoss:
    """Weighted cross entropy at the answers, soft at box edges, and how good they are meanwhile."""

    def __init__(self, words: Words, device: str):
        self.bins = torch.arange(BINS, device=device)
        near = torch.exp(-0.5 * ((self.bins[:, None] - self.bins) / SPREAD) ** 2)
        self.near = near / near.sum(1, keepdim=True)
        self.whole = (self.bins == 0).float()
        self.first_edge, self.end = words.first_bins[0], words.end  # the forms follow each other

    def __call__(self, logits: Tensor, token: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """logits [answers, V], token [answers]"""
        logits = logits.float()
        is_edge, place = token >= self.first_edge, (token - self.first_edge) % BINS
        # A word is its own one column; of a box edge all bins of its form are columns.
        column = torch.where(is_edge[:, None], (token - place)[:, None] + self.bins, token[:, None])
        share = torch.where(is_edge[:, None], self.near[place], self.whole)
        loss = logits.logsumexp(-1) - (logits.gather(1, column) * share).sum(-1)
        weight = torch.where(is_edge, EDGE_WEIGHT, torch.where(token == self.end, END_WEIGHT, WORD_WEIGHT))
        with torch.no_grad():
            edge, word = is_edge.float(), (weight == WORD_WEIGHT).float()
            best = logits.argmax(-1)
            numbers = {
                "edges": (loss * edge).sum() / edge.sum(),
                "bins off": ((best - token).abs().clamp(max=50) * edge).sum() / edge.sum(),
                "words": ((best == token) * word).sum() / word.sum(),
            }
        return (loss * weight).sum() / weight.sum(), numbers


class Lesson:
    """One learner and its loss on batches of `Batches`."""

    def __init__(self, learner: Learner, words: Words, hints: float, device: str):
        self.learner, self.words, self.hints, self.device = learner, words, hints, device
        self.answer_loss = AnswerLoss(words, device)

    def __call__(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        row, column, token = batch["predicts"]
        with autocast(self.device):
            logits, middle = self.logits(batch, row, column)
        loss, numbers = self.answer_loss(logits, token)
        pointed = self.learner.hints(*middle, batch["asked"], batch["evidence"])
        return loss + self.hints * pointed, {**numbers, "hints": pointed.detach()}

    def logits(self, batch: Batch, row: Tensor, column: Tensor) -> tuple[Tensor, tuple]:
        """See `Learner`."""
        return self.learner(to_pixels(batch["images"]), row, column, **{name: batch[name] for name in TEXT})

    @torch.no_grad()
    def answers(self, batch: Batch) -> list[tuple[bool, list[int], list[int]]]:
        """Whether it is a question of words, what was said greedily, as long as the right answer, and that."""
        row, column, token = batch["predicts"]
        first, count = batch["first"], batch["count"]
        batch = {**batch, "tokens": batch["tokens"].clone()}
        tokens = batch["tokens"].flatten(1)
        said = torch.zeros_like(token)
        for turn in range(int(count.max())):
            here = (first + turn)[turn < count]
            with autocast(self.device):
                logits, _ = self.logits(batch, row[here], column[here])
            said[here] = logits.argmax(-1)
            # What was said is read by the next turn; behind the last token of an answer stands another question.
            on = here[(turn + 1 < count)[turn < count]]
            tokens[row[on], column[on] + 1] = said[on]
        spans = [(a, a + n) for a, n in zip(first.tolist(), count.tolist(), strict=True)]
        return [
            (vqa, said[a:b].tolist(), token[a:b].tolist())
            for vqa, (a, b) in zip(batch["vqa"].tolist(), spans, strict=True)
        ]

    def measure(self, batches: Batches, steps: int) -> Numbers:
        """REC Acc@0.5 and VQA accuracy in percent, of so many batches."""
        right: dict[str, list[bool]] = {"REC": [], "VQA": []}
        for step in range(steps):
            batch = {name: tensor.to(self.device) for name, tensor in batches(step).items()}
            for vqa, said, wanted in self.answers(batch):
                if vqa:
                    right["VQA"].append(said == wanted)
                else:
                    boxes = [self.box(each[:4]) for each in (said, wanted)]
                    right["REC"].append(None not in boxes and iou(*boxes) >= RIGHT)  # type: ignore[arg-type]
        return {name: 100 * sum(each) / len(each) for name, each in right.items()}

    def box(self, tokens: list[int]) -> Box | None:
        """The box that four tokens say, in unit coordinates."""
        opened, middle, closed = self.words.first_bins
        edges = [token - start for token, start in zip(tokens, (opened, middle, middle, closed), strict=True)]
        box = Box(*(edge / BINS for edge in edges))
        return box if all(0 <= edge < BINS for edge in edges) and box.area > 0 else None


def train_language(
    plan: LanguagePlan, pictures: Pictures, words: Words, decoder: Any, seer: Seer, path: Path,
    device: str = "cpu", loaders: int = 0, stop_after: int | None = None,
) -> None:  # fmt: skip
    """Train to the end of the plan, or go on. decoder: the language model without its head, as it was pretrained."""
    torch.manual_seed(plan.seed)
    with autocast(device):
        narrow = torch.is_autocast_enabled(torch.device(device).type)
    learner = Learner(seer, decoder, words.grown(decoder.embed_tokens.weight.detach()), narrow).to(device)
    if plan.compile:
        learner.compile_layers()
    lesson = Lesson(learner, words, plan.hints, device)
    checked = Batches(plan.rows, words, pictures, "validation")
    early, late = (Batches(rows, words, pictures) for rows in (plan.early_rows, plan.rows))
    train(
        learner, make_optimizer(learner, plan.rate, plan.new_rate), plan,
        lambda step: (early if step < plan.early else late)(step), lesson, path,
        told={"stage": "language", **asdict(plan)},
        measure=lambda: lesson.measure(checked, plan.checked // plan.batch), measure_every=MEASURE_EVERY,
        device=device, loaders=loaders, stop_after=stop_after,
    )  # fmt: skip


def load_learner(path: Path, plan: LanguagePlan, words: Words, decoder: Any, seer: Seer) -> Learner:
    """What a checkpoint of this stage holds, in float32. Raises GroundPruneError where there is none."""
    state = trained_state(path, plan, "language model", "language")
    learner = Learner(seer, decoder, words.grown(decoder.embed_tokens.weight.detach()), narrow=False)
    learner.load_state_dict(state["model"], strict=False)  # only what learns is kept
    return learner
