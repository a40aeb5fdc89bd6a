"""One fine-tuning with transformers' Trainer, and what the model answers afterwards."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import Trainer, TrainingArguments

import groundprune as gp
from groundprune.data import open_data
from groundprune.evaluation.driver import answer_settings

from .arms import ARMS, KEEP, SETTINGS, Plan
from .scenes import Collator, Conversations


def finetuned(arm: str, seed: int, plan: Plan, folder: Path) -> tuple[Any, Any, dict[str, Any]]:
    """The pocket, its processor, and how training went. folder: for what the Trainer writes."""
    model, processor = gp.load("pocket", device="cpu", dtype="float32")
    model.model.vision_tower.requires_grad_(False)
    arguments = TrainingArguments(
        output_dir=str(folder), max_steps=plan.steps, per_device_train_batch_size=plan.batch, learning_rate=plan.rate,
        warmup_steps=plan.warmup, lr_scheduler_type="linear", max_grad_norm=1.0, seed=seed, use_cpu=True,
        remove_unused_columns=False, report_to=[], save_strategy="no", logging_steps=max(1, plan.steps // 10),
        disable_tqdm=True,
    )  # fmt: skip
    scenes = Conversations(seed, plan.steps * plan.batch, plan.turns)
    trainer = Trainer(model, arguments, data_collator=Collator(processor), train_dataset=scenes)
    policy, start = ARMS[arm], time.process_time()
    pruner = gp.make_pruner("random", keep=KEEP)
    with contextlib.nullcontext() if policy is None else gp.prune(model, pruner, policy):
        trainer.train()
    losses = [round(entry["loss"], 4) for entry in trainer.state.log_history if "loss" in entry]
    return model.eval(), processor, {"loss": losses, "seconds": round(time.process_time() - start, 1)}


def answers(model: Any, processor: Any, plan: Plan) -> dict[str, dict[str, int]]:
    """By setting, how many expressions of held-out scenes were asked, and how many boxes were right (IoU 0.5)."""
    data = open_data("scenes:held-out", scenes=plan.asked, seed=0)
    data = replace(data, samples=[sample for sample in data.samples if sample.kind == "rec"])
    run: Mapping[str, Any] = {"model": "pocket"}
    summary = answer_settings(model, processor, data, list(SETTINGS.values()), run, progress=False)
    shares = [found.rec.total for found in summary.settings]
    return {name: {"right": s.correct, "asked": s.n} for name, s in zip(SETTINGS, shares, strict=True)}
