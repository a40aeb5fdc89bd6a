"""The options that several commands share, and what they mean together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum, auto
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from groundprune.errors import GroundPruneError

if TYPE_CHECKING:
    from groundprune.pruners import Pruner
    from groundprune.tokens.compaction import Policy

DEFAULT_KEEP = "0.5"


class Engine(StrEnum):
    """What runs a model."""

    transformers = auto()
    vllm = auto()


ModelOption = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        help="pocket (part of the package), smol (of `make smol`), or a checkpoint: a folder or a Hub name.",
    ),
]
PrunerOption = Annotated[
    str | None,
    typer.Option(
        "--pruner",
        "-p",
        help="A name from `groundprune list`, or path/to/file.py:Class; with options name:option=value, "
        "hired:alpha=0.3.",
    ),
]
# Text, not numbers: the budget has its own words for what is allowed, and 1/3 is exact.
KeepOption = Annotated[
    str | None,
    typer.Option(
        "--keep", "-k", help=f"Share of the visual tokens that stay, 0 < keep <= 1 (default {DEFAULT_KEEP})."
    ),
]
TokensOption = Annotated[
    str | None, typer.Option("--tokens", help="How many visual tokens stay per image, instead of --keep.")
]
# Of a run over many settings.
KeepsOption = Annotated[
    str | None,
    typer.Option("--keep", "-k", help="Shares that stay, separated by commas (default 0.75,0.5,0.25,0.1)."),
]
CountsOption = Annotated[str | None, typer.Option("--tokens", help="Counts that stay, separated by commas.")]
ResultsOption = Annotated[
    Path | None,
    typer.Option("--out", "-o", help="Folder for results and report; the same call goes on where it stopped."),
]
PositionsOption = Annotated[
    str | None,
    typer.Option(
        "--positions",
        help="Which position ids the kept tokens get: preserved (default), reassigned, reassigned-image, stretched, "
        "shifted:N, permuted:SEED[:SHARE], scaled:FACTOR or official.",
    ),
]
TextTowerOption = Annotated[
    str | None,
    typer.Option(
        "--text-tower",
        help="Folder or Hub name of the CLIP model whose vision tower this is, for pruners that read the text.",
    ),
]
DeviceOption = Annotated[
    str | None, typer.Option("--device", help="cpu, cuda, cuda:1, mps (default: the GPU where there is one).")
]
DtypeOption = Annotated[
    str,
    typer.Option("--dtype", help="auto (the checkpoint's own; on a CPU float32), float32, bfloat16 or float16."),
]
SeedOption = Annotated[int | None, typer.Option("--seed", min=0, help="For pruners that draw at random.")]
CostsOption = Annotated[
    bool, typer.Option("--costs", help="Also print what answers cost: tokens, FLOPs, KV cache, seconds.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]


@dataclass(frozen=True)
class Pruning:
    """What the options ask for: a pruner and a policy, or None and None for the model as it is.

    official: the policy is that of the pruner's authors, which may depend on the model, see `on`.
    """

    pruner: Pruner | None
    policy: Policy | None
    official: bool = False

    def on(self, config: Any) -> Pruning:
        """The same on a model of this config."""
        if self.pruner is None or not self.official:
            return self
        from groundprune.tokens.positions import parse_policy

        return replace(self, policy=parse_policy("official", self.pruner.official(config)))

    def describe(self) -> str:
        if self.pruner is None:
            return "unpruned"
        from groundprune.pruners.spec import spec_of

        budget = str(self.pruner.budget)
        return f"{spec_of(self.pruner).short}, {'keep ' if self.pruner.tokens is None else ''}{budget}, {self.policy}"

    def settings(self) -> dict[str, Any]:
        """The same for JSON; null where an option has no meaning."""
        from groundprune.pruners.spec import spec_of

        pruner, budget = self.pruner, None if self.pruner is None else self.pruner.budget
        share = None if budget is None else budget.share
        return {
            "pruner": None if pruner is None else pruner.label,
            "keep": None if share is None else float(share),
            "tokens": None if budget is None else budget.tokens,
            "positions": None if pruner is None else str(self.policy),
            "seed": getattr(pruner, "seed", None),
            "options": None if pruner is None else spec_of(pruner).to_dict()["options"],
        }


def read_pruning(
    pruner: str | None,
    keep: str | None,
    tokens: str | None,
    positions: str | None,
    text_tower: str | None = None,
    seed: int | None = None,
    explained: bool = False,
) -> Pruning:
    """explained: a sheet of every pruner is asked for, which the budget and the rest then belong to.

    Raises GroundPruneError where options contradict each other or name what does not exist.
    """
    if pruner is None and explained and seed is None:
        # Any pruner will do to check the words.
        read_pruning("spatial", keep, tokens, positions)
        return Pruning(None, None)
    if pruner is None:
        idle = {
            "--keep": keep,
            "--tokens": tokens,
            "--positions": positions,
            "--text-tower": text_tower,
            "--seed": seed,
        }
        given = [option for option, value in idle.items() if value is not None]
        if given:
            raise GroundPruneError(f"{given[0]} needs --pruner NAME (see `groundprune list`)")
        return Pruning(None, None)
    if keep is not None and tokens is not None:
        raise GroundPruneError("give either --keep or --tokens, not both")
    from groundprune.pruners import Spec, pruner_class
    from groundprune.pruners.option import options_of
    from groundprune.tokens.positions import parse_policy

    spec, options = Spec.parse(pruner), {} if seed is None else {"seed": seed}
    if options and "seed" not in {option.name for option in options_of(pruner_class(spec.pruner))}:
        raise GroundPruneError(f"--seed means nothing to {pruner}, which draws nothing at random")
    default = DEFAULT_KEEP if keep is None and tokens is None and not spec.has_budget else keep
    made = spec.make_pruner(default, tokens, **options)
    policy = parse_policy("preserved" if positions is None else positions, made.official_positions)
    return Pruning(made, policy, official=positions == "official")


def refuse(needed: str, options: Mapping[str, object]) -> None:
    """Raises GroundPruneError for the first option that is given, which goes with others than those that are."""
    given = [option for option, value in options.items() if value is not None]
    if given:
        raise GroundPruneError(f"{given[0]} needs {needed}")


def comma_separated(text: str) -> list[str]:
    """ "a, b" is ["a", "b"]; a comma in quotes parts nothing. Raises GroundPruneError where an entry is empty."""
    from groundprune.pruners.spec import split_outside_quotes

    entries = [entry.strip() for entry in split_outside_quotes(text, ",")]
    if not all(entries):
        raise GroundPruneError(f"an entry of the list {text!r} is empty")
    return entries


def grid_of(pruner: str | None, keep: str | None, tokens: str | None, positions: str | None) -> dict[str, Any]:
    """The arguments of `compare_settings` that are given; the rest is left to it, which has reasons of its own."""
    from groundprune.pruners import pruner_names

    chosen: dict[str, Any] = {}
    if pruner is not None:
        chosen["pruners"] = pruner_names() if pruner == "all" else comma_separated(pruner)
    if keep is not None or tokens is not None:
        chosen["keeps"] = [] if keep is None else comma_separated(keep)
    if tokens is not None:
        chosen["tokens"] = comma_separated(tokens)
    if positions is not None:
        chosen["positions"] = comma_separated(positions)
    return chosen
