"""What every pruner scores and keeps of one image, and the boxes that the model answers with under each policy."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from groundprune.answers import Answer, answer
from groundprune.checkpoints.load import grounding_of
from groundprune.checkpoints.prompts import framed, prompt_for
from groundprune.errors import GroundPruneError
from groundprune.pruners import Pruner, Stage, make_pruner
from groundprune.pruning.context import prune
from groundprune.pruning.encode_once import encode
from groundprune.signals import Signals, TextEmbedder
from groundprune.tokens.layout import VisualLayout


@dataclass(frozen=True, eq=False)
class Scored:
    """One pruner on one image, by grid: one grid where the model sees the image whole, else one per tile.

    scores: per grid Float[rows, cols], NaN where there is no patch; None where the pruner has no `score` that its
    selection reads, or dropped nothing and so never asked. kept: per grid Bool[rows, cols].
    """

    label: str
    scores: list[np.ndarray] | None
    kept: list[np.ndarray]
    kept_tokens: int
    total_tokens: int


@dataclass(frozen=True, eq=False)
class Explanation:
    """answers: by "unpruned" and by position policy, the latter with `asked`, None where no pruner can be served.

    scored: the pruners that the model can serve. refused: the others, each with the reason.
    """

    image: Image.Image
    text: str
    asked: Pruner | None
    answers: dict[str, Answer]
    scored: list[Scored]
    refused: dict[str, str]


def explain(
    model: Any,
    processor: Any,
    image: Image.Image,
    text: str,
    pruners: Sequence[str | Pruner],
    policies: Iterable[str] = ("preserved", "reassigned"),
    keep: float | str | Fraction | None = None,
    tokens: int | str | None = None,
    text_tower: str | Path | TextEmbedder | None = None,
    known: Mapping[str, Answer] | None = None,
) -> Explanation:
    """Ask for the box of a referring expression under every policy, and let every pruner choose among the tokens.

    pruners: names get `keep` or `tokens`. The boxes are those of the first that the model can serve. known: answers
    that are there already, by "unpruned" or policy. The tower runs once for all pruners, and once per new answer.

    Raises GroundPruneError for what `answer` refuses of the text, the policies and the model.
    """
    refused: dict[str, str] = {}
    able: list[Pruner] = []
    for each in pruners:
        try:
            pruner = make_pruner(each, keep, tokens)
            with prune(model, pruner, "preserved", [text], text_tower):
                able.append(pruner)
        except GroundPruneError as error:
            refused[each if isinstance(each, str) else each.label] = str(error)
    scored = _scored(model, processor, image, text, able, text_tower, refused)
    asked = next((pruner for pruner in able if pruner.label not in refused), None)
    answers = dict(known or {})
    wanted: dict[str, tuple[Pruner | None, str]] = {"unpruned": (None, "preserved")}
    wanted |= {policy: (asked, policy) for policy in policies if asked is not None}
    with warnings.catch_warnings():
        if answers:
            warnings.simplefilter("ignore")  # of words that the model does not know: said once
        for name, (pruner, policy) in wanted.items():
            if name not in answers:
                answers[name] = answer(model, processor, image, text, "rec", pruner, policy, text_tower)
    return Explanation(image, text, asked, {name: answers[name] for name in wanted}, scored, refused)


def _scored(
    model: Any,
    processor: Any,
    image: Image.Image,
    text: str,
    pruners: Sequence[Pruner],
    text_tower: str | Path | TextEmbedder | None,
    refused: dict[str, str],
) -> list[Scored]:
    """What each pruner does in a prefill; those that cannot do it join `refused`."""
    grounding = grounding_of(model)
    seen, prompt = framed(processor, grounding, image), prompt_for(processor, grounding, "rec", text)
    inputs = processor(images=seen, text=prompt, return_tensors="pt").to(model.device, model.dtype)
    try:
        encoded = encode(model, inputs, pruners)
        rest = {name: value for name, value in inputs.items() if name != "pixel_values"}
    except GroundPruneError:
        # One of them asks for what this tower has not (a layer, say): each for itself then.
        encoded, rest = None, dict(inputs)
    found: list[Scored] = []
    for pruner in pruners:
        noting, scores = noting_scores(pruner)
        images = {} if encoded is None else {"mm_encoder_outputs": encoded.select(range(len(encoded)))}
        try:
            with torch.inference_mode(), prune(model, noting, "preserved", [text], text_tower) as run:
                model(**rest, **images, logits_to_keep=1)
        except GroundPruneError as error:
            refused[pruner.label] = str(error)
            continue
        found.append(gridded(pruner, run.layout[0].to("cpu"), run.kept[0].cpu(), scores))
    return found


def noting_scores(pruner: Pruner) -> tuple[Pruner, list[Tensor]]:
    """A copy of the pruner, and the list in which it notes what its `score` gives whenever it selects by it."""
    noted: list[Tensor] = []

    def score(signals: Signals, layout: VisualLayout, stage: Stage) -> Tensor:
        value = pruner.score(signals, layout, stage)
        noted.append(torch.as_tensor(value).detach().float().cpu())
        return value

    copied = copy.copy(pruner)
    object.__setattr__(copied, "score", score)  # pruners are frozen; what an instance holds hides its class's method
    return copied, noted


def gridded(pruner: Pruner, layout: VisualLayout, kept: Tensor, scores: Sequence[Tensor]) -> Scored:
    """What a pruner did, by grid.

    layout: on the CPU. kept: Long[K], indices into it. scores: what `noting_scores` noted.
    """
    score = next((s for s in scores if s.shape == (len(layout),)), None)  # of several stages the first sees all
    chosen = torch.zeros(len(layout), dtype=torch.bool)
    chosen[kept] = True
    return Scored(
        pruner.label,
        None if score is None else _grids(layout, score, float("nan")),
        _grids(layout, chosen, False),
        int((chosen & layout.is_patch).sum()),
        len(layout.patches),
    )


def _grids(layout: VisualLayout, values: Tensor, blank: float | bool) -> list[np.ndarray]:
    """[N] -> [rows, cols] per grid of patches."""
    found: list[np.ndarray] = []
    for group in layout.groups():
        grid = torch.full(layout.grid(group), blank, dtype=values.dtype)
        grid[layout.row[group], layout.col[group]] = values[group]
        found.append(grid.numpy())
    return found
