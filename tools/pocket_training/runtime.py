"""What both stages of training share: processes, schedules, checkpoints that survive an interruption, progress."""

import math
import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from rich.console import Console
from torch.utils.data import DataLoader, Dataset

from groundprune.errors import GroundPruneError
from groundprune.pocket.scenes import TRAIN_SEEDS

CHECKPOINT_SECONDS = 120.0  # the most work that an interruption can cost
SEEDS_PER_RUN = 20_000_000  # scene seeds that one training seed may use, half for each stage


@dataclass(frozen=True)
class Workers:
    """The place of this process among those that train together; batches are split evenly among them."""

    rank: int = 0
    count: int = 1
    device: str = "cpu"

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def share(self, batch: int) -> range:
        """Which rows of a batch are this process's."""
        each, left = divmod(batch, self.count)
        if left:
            raise GroundPruneError(f"{batch} scenes a step cannot be split evenly among {self.count} processes")
        return range(self.rank * each, (self.rank + 1) * each)

    def average_gradients(self, parameters: list[torch.nn.Parameter]) -> None:
        """One all-reduce of everything: the model is small, a call for each tensor would cost more."""
        if self.count == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        flat /= self.count
        for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))


def run_workers(function, processes: int, device: str, *arguments) -> None:
    """Call `function(workers, *arguments)` in that many single-threaded processes.

    On a CPU, processes that reduce gradients through gloo are faster than as many threads.
    """
    if processes == 1:
        function(Workers(0, 1, device), *arguments)
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.start_processes(
        _start_worker, (processes, device, port, function, arguments), nprocs=processes, start_method="spawn"
    )


def _start_worker(rank: int, count: int, device: str, port: int, function, arguments) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=count)
    try:
        function(Workers(rank, count, device), *arguments)
    finally:
        dist.destroy_process_group()


def check_training_seed(seed: int) -> None:
    """Raises GroundPruneError for a seed of a training that has no scenes."""
    runs = len(TRAIN_SEEDS) // SEEDS_PER_RUN
    if not 0 <= seed < runs:
        raise GroundPruneError(f"--seed must be 0 to {runs - 1}, each has scenes of its own (got {seed})")


def scene_seed(training_seed: int, stage: int, index: int) -> int:
    """The seed of the index-th scene of a stage (0: tower, 1: language model) of a training run."""
    half = SEEDS_PER_RUN // 2
    if not 0 <= index < half:
        raise ValueError(f"a stage has {half} scenes, there is no scene {index}")
    return TRAIN_SEEDS[training_seed * SEEDS_PER_RUN + stage * half + index]


class Steps(Dataset):
    """Batches as a pure function of their step, so that resuming needs no state of a generator."""

    def __init__(self, make_batch, steps: int):
        self.make_batch, self.steps = make_batch, steps

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int):
        return self.make_batch(step)


def batches(make_batch, first: int, steps: int, device: str):
    """Batches `first..steps`. A GPU is fed by processes that draw ahead; on a CPU they would only compete."""
    workers = 0 if device == "cpu" else max(1, (os.cpu_count() or 2) - 1)
    return DataLoader(
        Steps(make_batch, steps), batch_size=None, sampler=range(first, steps), num_workers=workers,
        prefetch_factor=4 if workers else None,
    )  # fmt: skip


def learning_rate(step: int, steps: int, warmup: int, hold: float = 0.0) -> float:
    """Share of the peak rate: linear warmup, flat for a share `hold` of the run, then linear to one hundredth."""
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return max(0.01, min(1.0, (1 - done) / (1 - hold)))


def autocast(device: str):
    """Matrix products in bfloat16 where that is faster: on a GPU, and on a CPU that has instructions for them."""
    kind = torch.device(device).type
    faster = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return torch.autocast(kind, torch.bfloat16, enabled=kind != "cpu" or faster)


def save_atomically(state: dict, path: Path) -> None:
    """Write beside the target and rename, so that an interruption leaves the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".draft")
    torch.save(state, draft)
    os.replace(draft, path)


def load_state(path: Path) -> dict:
    """What `save_atomically` wrote; empty where nothing was written yet."""
    return torch.load(path, map_location="cpu", weights_only=True) if path.is_file() else {}


class Meter:
    """Smoothed numbers of the run, printed by the leading process now and then."""

    def __init__(self, name: str, workers: Workers, steps: int, first: int, seconds: float, every: int = 25):
        self.name, self.steps, self.first, self.every = name, steps, first, every
        self.console = Console() if workers.leads else None
        self.sums: dict[str, torch.Tensor] = {}
        self.seen, self.before, self.began, self.saved = 0, seconds, time.monotonic(), time.monotonic()

    @property
    def seconds(self) -> float:
        """Of training, also before an interruption."""
        return self.before + time.monotonic() - self.began

    def checkpoint_is_due(self) -> bool:
        if time.monotonic() - self.saved < CHECKPOINT_SECONDS:
            return False
        self.saved = time.monotonic()
        return True

    def add(self, step: int, numbers: dict[str, torch.Tensor]) -> None:
        for key, value in numbers.items():
            self.sums[key] = self.sums.get(key, torch.zeros_like(value)) + value  # read when printed
        self.seen += 1
        if (step + 1) % self.every and step + 1 != self.steps:
            return
        if self.console:
            means = "  ".join(f"{key} {float(value) / self.seen:.3f}" for key, value in self.sums.items())
            pace = (time.monotonic() - self.began) / (step + 1 - self.first)
            left = math.ceil(pace * (self.steps - step - 1) / 60)
            self.console.print(
                f"{self.name} {step + 1}/{self.steps}  {means}  {pace:.2f} s/step, {left} min left",
                highlight=False, soft_wrap=True,
            )  # fmt: skip
        self.sums, self.seen = {}, 0
