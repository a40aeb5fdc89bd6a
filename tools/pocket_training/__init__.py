"""How the pocket model is made: a tower, a language model behind it, and a folder with both.

Everything is a function of the seeds and the plan. Interrupted, the same call goes on where it was.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path

from groundprune.caches import cache_folder
from groundprune.checkpoints.load import usable_device
from groundprune.errors import GroundPruneError
from groundprune.pocket.scenes import IMAGE_SIZE

from .card import SPLIT_SIZES, card_text, measure, versions
from .export import replaced, save_checkpoint
from .language import LanguagePlan, load_llava, train_language
from .runtime import Workers, check_training_seed, load_state, run_workers
from .tower import load_clip, train_tower
from .tower_data import TowerPlan
from .vocabulary import words

__all__ = ["Recipe", "export", "recipe", "train"]


@dataclass(frozen=True)
class Recipe:
    """Both stages and how the result is measured."""

    tower: TowerPlan
    language: LanguagePlan
    sizes: dict[str, int]  # of the evaluation, by split


def recipe(seed: int, quick: bool = False) -> Recipe:
    """The plan of a training; `quick` is a run of seconds that learns nothing."""
    tower, language = TowerPlan(seed), LanguagePlan(seed)
    if not quick:
        return Recipe(tower, language, SPLIT_SIZES)
    return Recipe(
        replace(tower, steps=6, batch=4, compile=False),
        replace(language, steps=6, batch=4, compile=False),
        dict.fromkeys(SPLIT_SIZES, 4),
    )


def train(
    seed: int = 0,
    work: Path | None = None,
    device: str = "cpu",
    processes: int = 1,
    out: Path | None = None,
    quick: bool = False,
    tower_from: Path | None = None,
    stop_after: int | None = None,
) -> Path | None:
    """Train both stages, or go on with them, then measure and export. Returns the exported folder.

    `tower_from` is the `tower.pt` of another run, to use in place of a new tower. `stop_after` ends each stage
    after that many steps in all, as an interruption would, and exports nothing.

    Raises GroundPruneError, before any work, for arguments that make no sense.
    """
    if device != "cpu":
        processes = 1
    plan = recipe(seed, quick)
    _check(seed, plan, processes, out)
    usable_device(device)
    work = Path(work or cache_folder("pocket", f"seed-{seed}"))
    print(f"checkpoints of this run: {work}", flush=True)
    tower, language = tower_from or work / "tower.pt", work / "language.pt"
    if tower_from is None and _steps_done(tower) < plan.tower.steps:
        run_workers(train_tower, processes, device, plan.tower, tower, stop_after)
    if _steps_done(tower) < plan.tower.steps and tower_from is None:
        return None
    if _steps_done(language) < plan.language.steps:
        run_workers(train_language, processes, device, plan.language, tower, language, stop_after)
    if _steps_done(language) < plan.language.steps:
        return None
    return export(tower, language, out or work / "checkpoint", plan, device, processes)


def export(tower: Path, language: Path, out: Path, plan: Recipe, device: str, processes: int) -> Path:
    """Measure what the checkpoints hold, as it will be stored, and write the folder."""
    model, clip = load_llava(tower, language), load_clip(tower)
    card = make_card(tower, language, device, processes)
    with replaced(out) as folder:
        save_checkpoint(model, clip, folder)
        card["parameters"] = sum(p.numel() for p in model.parameters())
        card["accuracy"] = measure(folder, device, plan.sizes)
        (folder / "card.json").write_text(json.dumps(card, indent=2) + "\n")
        (folder / "CARD.md").write_text(card_text(card))
    return out


def make_card(tower: Path, language: Path, device: str, processes: int) -> dict:
    """What the checkpoints say about their making."""
    stages = {}
    for name, path in (("tower", tower), ("language", language)):
        state = load_state(path)
        stages[name] = {
            "seed": state["plan"]["seed"],
            "steps": state["step"],
            "planned_steps": state["plan"]["steps"],
            "batch": state["plan"]["batch"],
            "minutes": round(state["seconds"] / 60, 1),
        }
        if "questions" in state:
            stages[name]["questions"] = state["questions"]
    stages["language"]["vocabulary"] = len(words())
    return {**stages, "image_size": IMAGE_SIZE, "device": device, "processes": processes, "dtype": "bfloat16",
            "versions": versions()}  # fmt: skip


def _check(seed: int, plan: Recipe, processes: int, out: Path | None) -> None:
    check_training_seed(seed)
    if processes < 1:
        raise GroundPruneError(f"--processes must be a whole number of at least 1 (got {processes})")
    for stage in (plan.tower, plan.language):
        Workers(count=processes).share(stage.batch)
    if out is not None and out.exists() and not out.is_dir():
        raise GroundPruneError(f"{out}: is a file, give a folder to export to")


def _steps_done(path: Path) -> int:
    return load_state(path).get("step", 0)
