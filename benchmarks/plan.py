"""What the subcommands that measure models share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.cases import SHAPES, Case
from benchmarks.storing import Cells
from groundprune.errors import GroundPruneError, unknown
from groundprune.pruners import Pruner, Spec
from groundprune.tokens.budget import Budget

PRUNERS = ("cls-visual", "visionzip", "divprune", "coverage", "spatial")
KEEPS = ("0.5", "0.25", "0.1")
ALL_PRUNERS, ALL_KEEPS = ",".join(PRUNERS), ",".join(KEEPS)  # as they are typed
ROUNDS = 8


@dataclass(frozen=True)
class Plan:
    """Which models are measured, and how.

    Args:
        models: names of `benchmarks.cases.SHAPES`.
        tokens: visual tokens of a prompt.
        pruners: with their options, as on the command line of groundprune.
        keeps: shares of the visual tokens.
        device: "cpu" or "cuda".
        dtype: of torch, by name.
        rounds: in each of which every variant runs once.
        seed: of the order within rounds.

    Raises:
        GroundPruneError: a name that is not known, or too few rounds.
    """

    models: tuple[str, ...]
    tokens: tuple[int, ...] = (576,)
    pruners: tuple[str, ...] = PRUNERS
    keeps: tuple[str, ...] = KEEPS
    device: str = "cpu"
    dtype: str = "float32"
    rounds: int = ROUNDS
    seed: int = 0
    console: Console = field(default_factory=lambda: Console(stderr=True), compare=False, repr=False)

    def __post_init__(self) -> None:
        for name in self.models:
            if name not in SHAPES:
                raise unknown("model", name, SHAPES)
        if self.rounds < 1:
            raise GroundPruneError(f"rounds must be at least 1 (got {self.rounds})")
        for name in self.pruners:
            for keep in self.keeps:
                self.pruner(name, keep)

    def cells(self, path: Path) -> Cells:
        """The file of a benchmark, to go on with."""
        return Cells(path, seed=self.seed, device=self.device, dtype=self.dtype)

    def case(self, name: str, tokens: int, batch: int = 1) -> Case:
        """A model and its prompts, on the device."""
        return Case(name, tokens, self.device, self.dtype, batch)

    def pruner(self, name: str, keep: str) -> Pruner:
        """One of `pruners` at one of `keeps`."""
        return Spec.parse(name).make_pruner(keep)

    def follow(self, title: str, steps: Sequence[Any]) -> Iterator[Any]:
        """The steps one by one, with their progress on stderr."""
        columns = (
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
        )  # fmt: skip
        with Progress(*columns, console=self.console, transient=True) as progress:
            yield from progress.track(steps, description=title)

    def say(self, text: str) -> None:
        """One line of what was found."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)


def kept(keep: str, tokens: int) -> int:
    """How many of so many tokens stay."""
    return Budget.parse(keep, None).count(tokens)
