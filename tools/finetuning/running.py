"""All fine-tunings, one after another, and the file of what they found; killed, the same call goes on."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

import groundprune as gp
from groundprune.errors import GroundPruneError
from groundprune.evaluation.identity import about_this_run

from .arms import ARMS, BEFORE, Plan
from .training import answers, finetuned

RESULTS = "results.json"


def finetunings(seeds: int, plan: Plan, out: Path) -> dict[str, Any]:
    """What `out/results.json` holds at the end; rows that it holds already are not made again.

    Raises GroundPruneError where `out` holds results of another plan.
    """
    torch.set_num_threads(1)
    file = out / RESULTS
    found = _stored(file, plan)
    done = {(row["arm"], row["seed"]) for row in found["rows"]}
    for arm, seed in [(BEFORE, 0), *((arm, seed) for seed in range(seeds) for arm in ARMS)]:
        if (arm, seed) in done:
            continue
        if arm == BEFORE:
            model, processor = gp.load("pocket", device="cpu", dtype="float32")
            trained: dict[str, Any] = {}
        else:
            with tempfile.TemporaryDirectory() as folder:
                model, processor, trained = finetuned(arm, seed, plan, Path(folder))
        row = {"arm": arm, "seed": seed, **trained, "rec": answers(model, processor, plan)}
        found["about"] = about_this_run("cpu", plan.batch, model.config.get_text_config().num_hidden_layers)
        found["rows"].append(row)
        _store(file, found)
        print(f"{arm}, seed {seed}: " + ", ".join(f"{k} {v['right']}/{v['asked']}" for k, v in row["rec"].items()))
    return found


def _stored(file: Path, plan: Plan) -> dict[str, Any]:
    if not file.exists():
        return {"plan": asdict(plan), "about": {}, "rows": []}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if found["plan"] != asdict(plan):
            raise GroundPruneError(f"{file} holds fine-tunings of another plan: give another --out")
    except (KeyError, TypeError, ValueError) as error:
        raise GroundPruneError(f"{file} holds no fine-tunings: {error!r}") from error
    return found


def _store(file: Path, found: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_suffix(".new")
    new.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    os.replace(new, file)
