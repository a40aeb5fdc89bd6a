"""Many questions about one scene in one row, laid out for `tools.pocket_training.packed_model.packed_hidden`."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from groundprune.pocket.scenes import VALIDATION_SEEDS
from tools.pocket_training.runtime import scene_seed

from .pictures import Pictures
from .questions import Question, draw_question
from .scenes import TRAIN, Scene, make_scene
from .words import Words

PREFIX_BUCKETS = {32: 0.5, 64: 0.5}  # lengths that a prefix is padded to, and how often a step uses each
MAX_GAP = 64
GAP_SHARE = 0.4  # of the rows leave unused positions before the image


@dataclass(frozen=True)
class Rows:
    """How the rows of a batch are drawn.

    seed: of the training. scenes: a step. rec, vqa: questions a scene, of which those that do not fit into
    `length` tokens are left out.
    """

    seed: int
    scenes: int
    rec: int
    vqa: int
    length: int

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
        """See `packed_hidden`; predicts long [3, answers]: row, column, token; asked, evidence: see `Hints`;
        vqa bool [questions]; first, count long [questions]: which of the answers are a question's."""
        rows, length = self.rows, self.rows.prefix_length(step)
        pad = self.words.end
        tokens = np.full((rows.scenes, rows.length), pad)
        block = np.full((rows.scenes, rows.length), -1)
        offset = np.zeros((rows.scenes, rows.length), np.int64)
        images, prefixes, gaps, predicts, asked, evidence, vqa, first, count = ([] for _ in range(9))
        for row in range(rows.scenes):
            scene, seed = self.scene(step * rows.scenes + row)
            rng = np.random.default_rng([seed, 4])
            images.append(scene.image)
            prefixes.append(self.words.draw_prefix(rng, length))
            gaps.append(int(rng.integers(1, MAX_GAP + 1)) if rng.random() < GAP_SHARE else 0)
            used = 0
            for number, question in enumerate(draw_questions(rng, scene, rows.rec, rows.vqa)):
                said, answered = self.words.turn(question)
                ids = said + answered[:-1]
                if used + len(ids) > rows.length:
                    continue
                here = np.s_[row, used : used + len(ids)]
                tokens[here], block[here], offset[here] = ids, number, np.arange(len(ids))
                start = used + len(said) - 1
                asked.append((row, start))
                evidence.append(np.isin(scene.owner, question.about))
                vqa.append(question.kind == "vqa")
                first.append(len(predicts))
                count.append(len(answered))
                predicts += [(row, start + i, token) for i, token in enumerate(answered)]
                used += len(ids)
        return {
            "images": torch.from_numpy(np.stack(images)),
            "prefix": torch.tensor([[pad] * (length - len(p)) + p for p in prefixes]),
            "prefix_pad": torch.tensor([length - len(p) for p in prefixes]),
            "gap": torch.tensor(gaps),
            "tokens": torch.from_numpy(tokens),
            "block": torch.from_numpy(block),
            "offset": torch.from_numpy(offset),
            "predicts": torch.tensor(predicts).T,
            "asked": torch.tensor(asked).T,
            "evidence": torch.from_numpy(np.stack(evidence)),
            "vqa": torch.tensor(vqa),
            "first": torch.tensor(first),
            "count": torch.tensor(count),
        }


def draw_questions(rng, scene: Scene, rec: int, vqa: int) -> list[Question]:
    """In mixed order; none is asked twice."""
    kinds = ["rec"] * rec + ["vqa"] * vqa
    rng.shuffle(kinds)
    drawn = [draw_question(rng, scene.objects, kind) for kind in kinds]
    return list(dict.fromkeys(question for question in drawn if question))
