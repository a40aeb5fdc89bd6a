"""What is known of every sample's tokens: the regions that they show, and how much of a score lies on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from groundprune.checkpoints.load import grounding_of
from groundprune.errors import Unservable
from groundprune.evaluation.asking import windows
from groundprune.evaluation.driver import WINDOW
from groundprune.evaluation.interventions import Truths
from groundprune.evaluation.preparing import prepare
from groundprune.evaluation.rows import kept_grids
from groundprune.pruners import Pruner, make_pruner
from groundprune.pruning.inputs import prune_inputs
from groundprune.signals import Signals
from groundprune.studies.parts.forcing import regions_of
from groundprune.studies.study import Bench, Row
from groundprune.tokens.layout import VisualLayout
from groundprune.tokens.selection import Selection, Stage

STORED = ("target", "border", "centre", "distractors")  # regions; the others follow from these
BATCH = 64
Seen = dict[str, dict[str, Any]]  # by sample: see `look`


@dataclass(frozen=True)
class _Noting(Pruner):
    """Chooses as `inner`, and hands on what it saw: layout and score of one row after another."""

    inner: Pruner | None = None
    seen: list[tuple[VisualLayout, Tensor]] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("needs", "name"):
            object.__setattr__(self, name, getattr(self.inner, name))

    def select(self, signals: Signals, layout: VisualLayout, stage: Stage) -> Selection:
        assert self.inner is not None
        assert self.seen is not None
        self.seen.append((layout, self.inner.score(signals, layout, stage)))
        return self.inner.select(signals, layout, stage)


def look(bench: Bench, pruners: Sequence[str] = ()) -> Seen:
    """The regions of each expression's image, and the score mass of pruners on them; nothing is answered.

    Args:
        bench: its samples have boxes.
        pruners: names of pruners with scores; those that the model cannot serve are left out.

    Returns:
        By sample: "grid", rows and columns; by name of STORED, which of its cells belong to it, see `cells`; and
        "mass", by pruner, the share of the score on the target: scores less the row's lowest, of sum 1. Nothing of a
        model that sees an image as several grids.
    """
    found: Seen = {}
    for pruner in pruners or ("random",):
        try:
            for part in windows(bench.data, WINDOW):
                _look(bench, part, pruner, bool(pruners), found)
        except Unservable:
            continue
    return found


@torch.inference_mode()
def _look(bench: Bench, part: Sequence[Any], pruner: str, mass: bool, found: Seen) -> None:
    grounding, made = grounding_of(bench.model), make_pruner(pruner, keep="0.5")
    prepared = prepare(bench.model, bench.processor, grounding, part, [made], {})
    for batch in prepared.batches(BATCH):
        samples = [prepared.samples[i] for i in batch]
        truths = Truths(samples, [prepared.words[i].size for i in batch], grounding.frame)
        noting = _Noting(keep="0.5", inner=made, seen=(seen := []))
        inputs = prepared.inputs(batch, bench.processor.tokenizer, bench.model.device)
        prune_inputs(bench.model, inputs, noting, text=[sample.text for sample in samples])
        for sample, (layout, score) in zip(samples, seen, strict=True):
            entry = found.get(sample.id) or _regions(truths, layout)
            if mass:
                entry["mass"][pruner] = _mass(score, layout, cells(entry, "target"))
            found[sample.id] = entry


def _regions(truths: Truths, layout: VisualLayout) -> dict[str, Any]:
    of = regions_of(truths, layout)  # before the grid is asked for: it refuses several
    rows, cols = layout.grid(layout.patches)
    found: dict[str, Any] = {"grid": [rows, cols], "mass": {}}
    for name in STORED:
        bits = np.zeros(rows * cols, dtype=bool)
        bits[(layout.row * cols + layout.col)[of[name]].cpu().numpy()] = True
        found[name] = np.packbits(bits).tobytes().hex()
    return found


def _mass(score: Tensor, layout: VisualLayout, target: np.ndarray) -> float:
    patches = layout.patches
    of = score.float()[patches].cpu().numpy()
    above = of - of.min()
    on = target[layout.row[patches].cpu().numpy(), layout.col[patches].cpu().numpy()]
    return round(float(above[on].sum() / max(above.sum(), 1e-12)), 6)


def cells(seen: Mapping[str, Any], region: str) -> np.ndarray:
    """Bool[rows, cols]: a region of a sample's entry of `look`."""
    rows, cols = seen["grid"]
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(seen[region]), dtype=np.uint8))
    return bits[: rows * cols].astype(bool).reshape(rows, cols)


def kept_share(row: Row, seen: Mapping[str, Any], region: str) -> float | None:
    """Which share of a region's tokens a row kept, 0..1; None where it has none, or the row does not say.

    row: of samples.jsonl. seen: the sample's entry of `look`.
    """
    grids, of = kept_grids(row), cells(seen, region)
    if grids is None or len(grids) != 1 or grids[0].shape != of.shape or not of.any():
        return None
    return float(grids[0][of].mean())


def density(seen: Mapping[str, Any], pruner: str) -> float | None:
    """Semantic density: score mass per token of the target, over that per token of the image; None = not measured."""
    mass, target = seen["mass"].get(pruner), cells(seen, "target")
    return None if mass is None or not target.any() else mass / float(target.mean())
