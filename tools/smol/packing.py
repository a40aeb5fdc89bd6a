"""Many questions about one scene in one row, laid out for `.packed.packed_hidden`."""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from groundprune.pocket.scenes import VALIDATION_SEEDS
from tools.pocket_training.runtime import scene_seed

from .pictures import Pictures
from .questions import SHARES, VQA_SHARES, Question, Shares, draw_question
from .scenes import TRAIN, Scene, make_scene
from .words import Words

PREFIX_BUCKETS = {32: 0.5, 64: 0.5}  # lengths that a prefix is padded to, and how often a step uses each
MAX_GAP = 64
MOST_SCENES = 8  # of a step
# At first things are to be found by their names, behind a prefix that ends where the image begins: what compares
# places, and an origin of its own for each image, are learnt once there are places.
EARLY_SHARES = {"rec": {"name": 0.6, "extreme": 0.25, "relation": 0.15}, "vqa": VQA_SHARES}


@dataclass(frozen=True)
class Rows:
    """How the rows of a batch are drawn.

    seed: of the training. scenes: a step, at most MOST_SCENES. rec, vqa: questions a scene, less those drawn twice
    and those that do not fit into `parts` parts of `length` tokens. shares: of their types. gaps: share of the rows
    that leave unused positions before the image.
    """

    seed: int
    scenes: int
    rec: int
    vqa: int
    parts: int
    length: int
    shares: Shares = field(default_factory=lambda: SHARES)
    gaps: float = 0.4

    def prefix_length(self, step: int) -> int:
        """Of a step, in tokens."""
        rng = np.random.default_rng([self.seed, step, 3])
        return int(rng.choice(list(PREFIX_BUCKETS), p=list(PREFIX_BUCKETS.values())))


class Batches:
    """`batch(step)`: images and packed text, all a function of the rows' numbers and the step."""

    def __init__(self, rows: Rows, words: Words, pictures: Pictures, split: str = TRAIN):
        self.rows, self.words, self.pictures, self.split = rows, words, pictures, split

    def scene(self, index: int) -> tuple[Scene, int]:
        """The index-th scene and its seed."""
        seed = scene_seed(self.rows.seed, 1, index) if self.split == TRAIN else VALIDATION_SEEDS[index]
        return make_scene(self.pictures, seed, self.split), seed

    def __call__(self, step: int) -> dict[str, Tensor]:
        """See `packed_hidden`; predicts long [3, answers]: row, column of all parts, token; asked, evidence: see
        `Hints`; vqa bool [questions]; first, count long [questions]: which of the answers are a question's."""
        rows, length, pad = self.rows, self.rows.prefix_length(step), self.words.end
        shape = (rows.scenes, rows.parts * rows.length)
        tokens, block, offset = np.full(shape, pad), np.full(shape, -1), np.zeros(shape, np.int64)
        images, prefixes, gaps, predicts, asked, evidence, vqa, first, count = ([] for _ in range(9))
        for row in range(rows.scenes):
            scene, seed = self.scene(step * MOST_SCENES + row)
            rng = np.random.default_rng([seed, 4])
            images.append(scene.image)
            prefixes.append(self.words.draw_prefix(rng, length))
            gaps.append(int(rng.integers(1, MAX_GAP + 1)) if rng.random() < rows.gaps else 0)
            used = [part * rows.length for part in range(rows.parts)]
            drawn = draw_questions(rng, scene, rows)
            for number, question in enumerate(drawn):
                said, answered = self.words.turn(question)
                ids = said + answered[:-1]
                fits = (p for p, start in enumerate(used) if start + len(ids) <= (p + 1) * rows.length)
                part = next(fits, None)
                if part is None:
                    continue
                here = np.s_[row, used[part] : used[part] + len(ids)]
                tokens[here], block[here], offset[here] = ids, number, np.arange(len(ids))
                start = used[part] + len(said) - 1
                asked.append((row, start))
                evidence.append(np.isin(scene.owner, question.about))
                vqa.append(question.kind == "vqa")
                first.append(len(predicts))
                count.append(len(answered))
                predicts += [(row, start + i, token) for i, token in enumerate(answered)]
                used[part] += len(ids)
        shape = (rows.scenes, rows.parts, rows.length)
        return {
            "images": torch.from_numpy(np.stack(images)),
            "prefix": torch.tensor([[pad] * (length - len(p)) + p for p in prefixes]),
            "prefix_pad": torch.tensor([length - len(p) for p in prefixes]),
            "gap": torch.tensor(gaps),
            "tokens": torch.from_numpy(tokens).view(shape),
            "block": torch.from_numpy(block).view(shape),
            "offset": torch.from_numpy(offset).view(shape),
            "predicts": torch.tensor(predicts).T,
            "asked": torch.tensor(asked).T,
            "evidence": torch.from_numpy(np.stack(evidence)),
            "vqa": torch.tensor(vqa),
            "first": torch.tensor(first),
            "count": torch.tensor(count),
        }


def draw_questions(rng, scene: Scene, rows: Rows) -> list[Question]:
    """In mixed order; none is asked twice."""
    kinds = ["rec"] * rows.rec + ["vqa"] * rows.vqa
    rng.shuffle(kinds)
    drawn = [draw_question(rng, scene.objects, kind, shares=rows.shares) for kind in kinds]
    return list(dict.fromkeys(question for question in drawn if question))
