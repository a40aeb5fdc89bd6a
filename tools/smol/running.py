"""A training that can be killed at any time: checkpoints, a log as data, and the loop that both stages share."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from groundprune.errors import GroundPruneError
from tools.pocket_training.optimizers import descend, set_rate
from tools.pocket_training.runtime import Steps, Workers, learning_rate, load_state, save_atomically

from .record import trained_on

CHECKPOINT_SECONDS = 600.0  # the most work that an interruption can cost
LOG_EVERY = 20  # steps

Batch = dict[str, Tensor]
Numbers = dict[str, Any]


class Log:
    """Lines of JSON, one for every few steps; a run that goes on takes out what lies behind its checkpoint."""

    def __init__(self, path: Path, first: int):
        self.path = path
        if path.is_file():
            kept = [line for line in path.read_text().splitlines() if line.endswith("}")]
            kept = [line for line in kept if json.loads(line)["step"] <= first]
            path.write_text("".join(f"{line}\n" for line in kept))

    def add(self, **numbers: Any) -> None:
        """One line."""
        rounded = {key: round(value, 4) if isinstance(value, float) else value for key, value in numbers.items()}
        with self.path.open("a") as file:
            file.write(json.dumps(rounded) + "\n")


class Clock:
    """Seconds since a run began, and those of processors that this process took, also before an interruption."""

    def __init__(self, state: dict[str, Any]):
        self.wall = state.get("seconds", 0.0) - time.monotonic()
        self.processor = state.get("processor", 0.0) - time.process_time()

    def told(self) -> dict[str, float]:
        """Both, as a checkpoint and a log keep them."""
        return {"seconds": self.wall + time.monotonic(), "processor": self.processor + time.process_time()}


def train(
    learner: nn.Module,
    optimizers: list[torch.optim.Optimizer],
    plan: Any,
    make_batch: Callable[[int], Batch],
    loss_of: Callable[[Batch], tuple[Tensor, dict[str, Tensor]]],
    path: Path,
    *,
    told: dict[str, Any],
    measure: Callable[[], Numbers] | None = None,
    measure_every: int = 0,
    device: str = "cpu",
    loaders: int = 0,
    stop_after: int | None = None,
) -> None:
    """Train to the end of the plan, or go on from what `path` holds; `path` with the ending .jsonl is the log.

    A batch is a function of its step, so that a run that was killed ends with the same weights as one that was not.

    Args:
        learner: its trained parameters are kept.
        optimizers: of `make_optimizers`.
        plan: has steps, warmup and hold; see `learning_rate`.
        make_batch: of a step.
        loss_of: the loss and what is logged.
        path: of the checkpoint.
        told: kept with the checkpoint and compared: another plan's checkpoint is not gone on with.
        measure: how good the learner is, logged every `measure_every` steps and at the end.
        measure_every: steps; 0 = only at the end.
        device: where the learner is.
        loaders: processes that draw batches ahead.
        stop_after: steps in all, as an interruption would end it.

    Raises:
        GroundPruneError: a checkpoint of another plan.
    """
    trained = {name: p for name, p in learner.named_parameters() if p.requires_grad}
    state = load_state(path)
    first, clock = state.get("step", 0), Clock(state)
    if state:
        _same_plan(state["plan"], told, path)
        with torch.no_grad():
            for name, parameter in trained.items():
                parameter.copy_(state["model"][name])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
    path.parent.mkdir(parents=True, exist_ok=True)
    log, sums, saved_at = Log(path.with_suffix(".jsonl"), first), {}, time.monotonic()
    end = min(plan.steps, stop_after or plan.steps)
    batches = DataLoader(
        Steps(make_batch, plan.steps), batch_size=None, sampler=range(first, end), num_workers=loaders,
        prefetch_factor=2 if loaders else None,
    )  # fmt: skip
    parameters = list(trained.values())
    for step, batch in enumerate(batches, first):
        set_rate(optimizers, learning_rate(step, plan.steps, plan.warmup, plan.hold))
        loss, numbers = loss_of({name: tensor.to(device) for name, tensor in batch.items()})
        descend(loss, parameters, optimizers, Workers().average_gradients)
        done = step + 1
        numbers["loss"] = loss.detach()
        for name, value in numbers.items():
            sums[name] = sums.get(name, 0.0) + float(value)
        sums["steps"] = sums.get("steps", 0) + 1
        if done % LOG_EVERY == 0 or done == end:
            count = sums.pop("steps")
            means = {name: value / count for name, value in sums.items()}
            log.add(step=done, **clock.told(), **means)
            sums = {}
        if measure and ((measure_every and done % measure_every == 0) or done == plan.steps):
            log.add(step=done, **clock.told(), **measure())
        if time.monotonic() - saved_at > CHECKPOINT_SECONDS or done == end:
            saved_at = time.monotonic()
            state = {
                "model": {name: p.detach() for name, p in trained.items()},
                "optimizers": [optimizer.state_dict() for optimizer in optimizers],
                "step": done, **clock.told(), "plan": told, "made": trained_on(device),
            }  # fmt: skip
            save_atomically(state, path)


def trained_state(path: Path, plan: Any, what: str, stage: str) -> dict[str, Any]:
    """The checkpoint of a stage. Raises GroundPruneError where the plan was not trained to its end."""
    state = load_state(path)
    if state.get("step", 0) < plan.steps:
        raise GroundPruneError(f"{path} holds no {what} that was trained to the end: run the stage {stage} first")
    return state


def _same_plan(kept: dict[str, Any], told: dict[str, Any], path: Path) -> None:
    other = [name for name in told if kept.get(name) != told[name]]
    if other:
        changed = ", ".join(f"{name}={kept.get(name)}, now {told[name]}" for name in other)
        raise GroundPruneError(f"{path} was trained by another plan ({changed}): remove it, or name another folder")
