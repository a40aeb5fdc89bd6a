"""Training of variants: every tower, then every model, several at a time, each in one process of one thread.

WORK/seed-N/TOWER.pt, WORK/seed-N/VARIANT.pt: checkpoints, from which a run that was killed goes on.
"""

import signal
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import torch

from groundprune.errors import GroundPruneError
from tools.pocket_training.language import LanguagePlan, train_language
from tools.pocket_training.runtime import Workers, load_state
from tools.pocket_training.tower import train_tower
from tools.pocket_training.tower_data import TowerPlan

from .catalogue import VARIANTS, Variant

MINUTES = {"tower": 3 / 400, "model": 12 / 2800}  # per step, of one processor of an ordinary server


@dataclass(frozen=True)
class Job:
    """variant: its name. tower: whether its tower is trained, else what stands behind it. device: "cpu" | "cuda"."""

    variant: str
    seed: int
    work: Path
    tower: bool
    quick: bool = False
    device: str = "cpu"

    @property
    def path(self) -> Path:
        """Of the checkpoint."""
        made = VARIANTS[self.variant]
        return self.work / f"seed-{self.seed}" / f"{made.tower_name if self.tower else made.name}.pt"

    @property
    def plan(self) -> TowerPlan | LanguagePlan:
        """Of the training."""
        variant = VARIANTS[self.variant]
        return (variant.tower_plan if self.tower else variant.language_plan)(self.seed, self.quick)

    @property
    def done(self) -> bool:
        """Raises GroundPruneError where the checkpoint is of another plan, which going on would mix with this one."""
        state = load_state(self.path)
        if state and state["plan"] != asdict(self.plan):
            raise GroundPruneError(f"{self.path} was trained by another plan than this version's: remove it")
        return state.get("step", 0) >= self.plan.steps

    def run(self) -> None:
        """Train to the end, or go on."""
        torch.set_num_threads(1)
        variant, workers = VARIANTS[self.variant], Workers(device=self.device)
        if isinstance(plan := self.plan, TowerPlan):
            train_tower(workers, plan, self.path)
        else:
            train_language(workers, plan, replace(self, tower=True).path, self.path, lesson=variant.lesson)


def jobs(
    variants: Sequence[Variant], seeds: Sequence[int], work: Path, quick: bool = False, device: str = "cpu"
) -> list[Job]:
    """Towers first, then models, a seed after the other."""
    towers = {variant.tower_name: variant.name for variant in variants}
    return [
        *(Job(name, seed, work, True, quick, device) for seed in seeds for name in towers.values()),
        *(Job(variant.name, seed, work, False, quick, device) for seed in seeds for variant in variants),
    ]


def minutes(missing: Sequence[Job]) -> int:
    """Of processor time that training takes, about."""
    return round(sum(MINUTES["tower" if job.tower else "model"] * job.plan.steps for job in missing))


def train(every: Sequence[Job], processes: int) -> None:
    """What is not trained yet. Raises GroundPruneError where a training fails; KeyboardInterrupt passes."""
    missing = [job for job in every if not job.done]
    for tower in (True, False):  # models need their towers
        mine = [job for job in missing if job.tower is tower]
        # One process per training, which gives back whatever memory it took.
        with get_context("spawn").Pool(processes, _ignore_interrupt, maxtasksperchild=1) as pool:
            for job, error in pool.imap_unordered(_run, mine):
                if error:
                    raise GroundPruneError(f"training {job.path} failed: {error}")


def _ignore_interrupt() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends the pool


def _run(job: Job) -> tuple[Job, str | None]:
    try:
        job.run()
    except Exception as error:  # told by the parent, which knows which job it was
        return job, f"{type(error).__name__}: {error}"
    return job, None
