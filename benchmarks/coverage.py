"""Tune `coverage` on one split of the pocket's scenes, then set it against every other pruner on another.

    python -m benchmarks coverage
    python -m benchmarks coverage --model smol  # nothing was tuned on it: the default against the others

Boxes alone (REC Acc@0.5), preserved positions, keeps 0.5, 0.25 and 0.1; the figure is the mean over the keeps. Tuned
on the split "validation", whose scenes no training run and no test sees; reported on "held-out". Once with the image
alone, once with the text where the model has a text tower: a pruner that reads the text is compared with those that
read it too, and with all. Differences are paired: the same samples, 95% bootstrap interval over samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import groundprune as gp
from benchmarks.storing import store
from groundprune import smol
from groundprune.checkpoints.hub import POCKET
from groundprune.data import open_data
from groundprune.data.sources import scenes_of
from groundprune.evaluation import Runner, Setting
from groundprune.pruners import Pruner, make_pruner, pruner_names
from groundprune.signals import VIDEO

KEEPS = ("0.5", "0.25", "0.1")
SAMPLES, SEED = 150, 0
DTYPES = {smol.NAME: "bfloat16"}  # as its weights are stored; on a CPU four times as fast
GRID = [{"spread": s, "text": text} for text in (False, True) for s in (0.15, 0.2, 0.25, 0.3, 0.4, 0.5)]
GRID += [{"spread": 0.25, "text": text, "anchors": True} for text in (False, True)]


@dataclass(frozen=True)
class Made(Setting):
    """A setting with options of the method."""

    made: Pruner | None = None

    def make_pruner(self) -> Pruner:
        assert self.made is not None
        return self.made


def settings(name: str, **options: Any) -> list[Setting]:
    """A pruner at every keep."""
    return [Made(name, keep, made=make_pruner(name, keep, **options)) for keep in KEEPS]


def answers(split: str, wanted: dict[str, list[Setting]], model: str = POCKET) -> dict[str, np.ndarray]:
    """Bool[keeps, samples] by label: which boxes are right."""
    asked = open_data(f"{scenes_of(model)}:{split}", scenes=SAMPLES, seed=SEED).samples
    samples = [s for s in asked if s.kind == "rec"]
    runner = Runner(*gp.load(model, dtype=DTYPES.get(model, "float32")), samples)
    runner.prepare([setting for row in wanted.values() for setting in row])
    found = {}
    for label, row in wanted.items():
        by_keep = []
        for setting in row:
            right = {r["sample"]: r["correct"] for rows in runner.run(setting) for r in rows}
            by_keep.append([right[s.id] for s in samples])
        found[label] = np.array(by_keep)
        print(f"{split:10} {100 * found[label].mean():5.1f} {label}", flush=True)
    return found


def told(right: np.ndarray) -> dict[str, Any]:
    """Accuracies: over all, and by keep."""
    return {"mean": round(float(right.mean()), 4), "keeps": [round(float(x), 4) for x in right.mean(1)]}


def paired(a: np.ndarray, b: np.ndarray, resamples: int = 10_000) -> dict[str, Any]:
    """Mean over keeps and samples of a - b; its interval resamples the samples, all keeps of one together."""
    difference = (a.astype(float) - b.astype(float)).mean(0)
    draws = np.random.default_rng(SEED).integers(len(difference), size=(resamples, len(difference)))
    low, high = np.quantile(difference[draws].mean(1), [0.025, 0.975])
    return {
        "difference": round(float(difference.mean()), 4),
        "interval": [round(float(low), 4), round(float(high), 4)],
    }


def tune() -> dict[str, Any]:
    """On the pocket, whose scenes of validation no training and no test sees."""
    right = answers("validation", {str(options): settings("coverage", **options) for options in GRID})
    # One spread for both, so that it is no choice of the user's: the best mean of the two kinds.
    plain = sorted({o["spread"] for o in GRID})
    both = {s: sum(right[str({"spread": s, "text": text})].mean() for text in (False, True)) / 2 for s in plain}
    grid = [o | told(right[str(o)]) for o in GRID]
    return {"split": "validation", "grid": grid, "spread": max(plain, key=lambda s: both[s])}


def main(path: Path, model: str = POCKET) -> None:
    """Tune where that is due, report, store."""
    if model == POCKET:
        torch.set_num_threads(1)
    tuned, texts = (tune(), (False, True)) if model == POCKET else (None, (False,))
    chosen = {"spread": tuned["spread"]} if tuned else {}
    made = {n: make_pruner(n, "0.9") for n in pruner_names() if n != "coverage"}
    reads = {n: any(need.signal == "clip_text" for need in pruner.needs) for n, pruner in made.items()}
    # The scenes are stills.
    before = [n for n, p in made.items() if not p.inside and VIDEO not in p.needs and (True in texts or not reads[n])]
    wanted = {f"coverage, text={text}": settings("coverage", **chosen, text=text) for text in texts}
    right = answers("held-out", wanted | {name: settings(name) for name in before}, model)
    against = [
        {"pruner": name, "text": reads[name], **told(right[name])}
        | {f"against text={text}": paired(right[f"coverage, text={text}"], right[name]) for text in texts}
        for name in sorted(before, key=lambda n: -right[n].mean())
    ]
    ours = [{"text": t, **told(right[f"coverage, text={t}"])} for t in texts]
    found = {
        "model": model, "samples": SAMPLES, "seed": SEED, "keeps": KEEPS, "positions": "preserved",
        "metric": "REC Acc@0.5", **({"tuning": tuned} if tuned else {}),
        "report": {"split": "held-out", "coverage": ours, "others": against},
    }  # fmt: skip
    store(path, found, DTYPES.get(model, "float32"))
