"""Many questions about one image in one row: each sees what stands before it and the image, but no other question.

A row is a prefix, the image, and blocks of text. Every block starts at the position id that follows the image,
as if it were alone, so the stock model gives the same logits for each block on its own.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from groundprune.pocket.questions import REC_SHARES, Question, draw_question
from groundprune.pocket.scenes import Scene

from .prefixes import draw_history, draw_system
from .prompts import before_image, request
from .vocabulary import EOS, LM_IDS, PAD, box_text, lm_ids

PLAIN_PREFIX = lm_ids(before_image())
# Lengths that a prefix is padded to, and how often a step uses each. Few, because each is compiled anew.
PREFIX_BUCKETS = {len(PLAIN_PREFIX): 0.3, 32: 0.7}
MAX_GAP = 64
# Counting and comparing places are learned last, long after colour, shape and size: they are asked more often
# than in the evaluation.
Shares = dict[str, dict[str, float]]  # of the types, by kind of question
SHARES: Shares = {
    "rec": REC_SHARES,
    "vqa": {"color": 0.11, "shape": 0.11, "size": 0.07, "count": 0.21, "existence": 0.16, "spatial": 0.34},
}
GAP_SHARE = 0.4  # of the rows leave unused positions between prefix and image


@dataclass(frozen=True)
class PackedText:
    """One row of blocks, padded: `tokens`, `block` (-1 where padded) and `offset` within the block, each [T]."""

    tokens: np.ndarray
    block: np.ndarray
    offset: np.ndarray
    predicts: list[tuple[int, int]]  # (column, the token that comes next there): answers and their ends
    asked: list[tuple[int, Question]]  # (column of the last token before the answer, what was asked)

    @property
    def questions(self) -> int:
        return len(self.asked)


def turn(question: Question) -> tuple[list[int], list[int]]:
    """Token ids of what is asked after the image and of what is answered."""
    answer = box_text(question.box) if question.box else question.answer
    return lm_ids(f"{request(question.kind, question.text)} assistant:"), lm_ids(f"{answer} {EOS}")


Turn = Callable[[Question], tuple[list[int], list[int]]]


def pack(blocks: list[list[Question]], length: int, turn: Turn = turn) -> PackedText:
    """Lay out blocks of one or more turns; a block that does not fit any more is left out."""
    tokens = np.full(length, LM_IDS[PAD])
    block, offset = np.full(length, -1), np.zeros(length, np.int64)
    predicts, asked, used = [], [], 0
    for number, turns in enumerate(blocks):
        ids, answers, ends = _flatten(turns, turn)
        if used + len(ids) > length:
            continue
        end = used + len(ids)
        tokens[used:end], block[used:end], offset[used:end] = ids, number, np.arange(len(ids))
        predicts += [(used + column, token) for column, token in answers]
        asked += [(used + column, question) for column, question in zip(ends, turns, strict=True)]
        used = end
    return PackedText(tokens, block, offset, predicts, asked)


def _flatten(turns: list[Question], turn: Turn) -> tuple[list[int], list[tuple[int, int]], list[int]]:
    ids, answers, ends = [], [], []
    for question in turns:
        if ids:
            ids += [LM_IDS[EOS], LM_IDS["user:"]]
        asked, answered = turn(question)
        start = len(ids) + len(asked) - 1
        ends.append(start)
        answers += [(start + i, token) for i, token in enumerate(answered)]
        ids += asked + answered[:-1]
    return ids, answers, ends


def draw_blocks(
    rng, scene: Scene, rec: int, vqa: int, second_turns: float = 0.08, shares: Shares = SHARES
) -> list[list[Question]]:
    """Questions about the scene, mostly one a block; some blocks go on with a second turn."""
    kinds = ["rec"] * rec + ["vqa"] * vqa
    rng.shuffle(kinds)
    questions = [q for kind in kinds if (q := draw_question(rng, scene.objects, kind, shares=shares[kind]))]
    blocks: list[list[Question]] = []
    for question in questions:
        if blocks and len(blocks[-1]) == 1 and rng.random() < second_turns:
            blocks[-1].append(question)
        else:
            blocks.append([question])
    return blocks


def draw_prefix(rng, length: int) -> list[int]:
    """A prefix of at most `length` tokens: system words, earlier turns, both, or (if nothing fits) neither."""
    for _ in range(8):
        if length <= len(PLAIN_PREFIX):
            break
        system = draw_system(rng) if rng.random() < 0.8 else ""
        history = draw_history(rng, int(rng.integers(0, 3)))
        ids = lm_ids(before_image(system, history))
        if len(ids) <= length:
            return ids
    return PLAIN_PREFIX


def draw_gap(rng) -> int:
    """Unused positions between prefix and image, so that no place is learnt as a distance from the start."""
    return int(rng.integers(1, MAX_GAP + 1)) if rng.random() < GAP_SHARE else 0


def attention_masks(prefix_pad: Tensor, block: Tensor, visual: int, prefix: int, dtype) -> tuple[Tensor, Tensor]:
    """Additive masks: context rows over context columns [B, 1, C, C], text rows over all columns [B, 1, T, C + T].

    `prefix_pad` [B] counts the columns that pad a prefix on its left; `block` [B, T] numbers the blocks. The
    context is prefix and image. Text never serves as a key to the context, so that quarter is not computed.
    """
    length = block.shape[1]
    context = prefix + visual
    column = torch.arange(context, device=block.device)
    real = column[None, :] >= prefix_pad[:, None]
    # A padded row sees itself: it is read by no one, but it must not be empty.
    causal = (column[:, None] >= column[None, :]) & real[:, None, :] | torch.eye(
        context, dtype=torch.bool, device=block.device
    )
    row = torch.arange(length, device=block.device)
    own = (block[:, :, None] == block[:, None, :]) & (row[:, None] >= row[None, :])
    text = torch.cat([real[:, None, :].expand(-1, length, -1), own], -1)
    return _additive(causal, dtype), _additive(text, dtype)


def _additive(allowed: Tensor, dtype) -> Tensor:
    mask = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device)
    return mask.masked_fill_(~allowed, -1e4)[:, None]
