"""Ids move as if tokens had been dropped, and none is: what a study needs to tell the two apart."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from groundprune.errors import Unservable
from groundprune.evaluation.interventions import Truths
from groundprune.pruners import Pruner
from groundprune.signals import Signals
from groundprune.tokens.layout import VisualLayout
from groundprune.tokens.positions import Policy, Row
from groundprune.tokens.selection import Selection, Stage

Choices = dict[int, Tensor]  # by the first unit of a prompt row: Long[K], what the pruner would keep of it


@dataclass(frozen=True)
class Foregone(Pruner):
    """Chooses as another pruner does, and then drops nothing.

    Args:
        of: the other, which acts before the LLM.
        choices: where its choices are left for the policy.
    """

    of: Pruner | None = None
    choices: Choices = field(default_factory=dict, compare=False, repr=False)
    name = "foregone"

    def __post_init__(self) -> None:
        super().__post_init__()
        assert self.of is not None
        object.__setattr__(self, "needs", self.of.needs)

    def for_model(self, config: Any) -> Pruner:
        assert self.of is not None
        return replace(self, of=self.of.for_model(config))

    def stages(self, n_layers: int) -> list[Stage]:
        assert self.of is not None
        return self.of.stages(n_layers)

    def __call__(self, signals: Signals, layout: VisualLayout, stage: Stage) -> Selection:
        assert self.of is not None
        self.choices[layout.unit[0]] = self.of(signals, layout, stage).kept
        return Selection(torch.arange(len(layout), device=layout.column.device))


@dataclass(frozen=True, eq=False)
class Renumbered(Policy):
    """The ids that another policy would give, had the tokens of `choices` alone been kept.

    A column that would have stayed carries exactly the id that it would have had, text and generated tokens too. A
    token that would have been dropped shares the id of the next column that would have stayed: under `reassigned`
    its own, less the number of tokens that would have been dropped before it. So ids never fall along the sequence.
    """

    of: Policy
    choices: Choices
    name = "renumbered"
    changes_whole_rows = True
    splits_flash_sequences = True

    def ids(self, row: Row) -> tuple[Tensor, int]:
        kept = self.choices[row.layout.unit[0]].to(row.column.device)
        stays = ~torch.isin(row.column, row.layout.column)
        stays[row.slot[kept]] = True
        fewer, moved = self.of(Row(row.position, row.column[stays], row.layout, kept))
        # How many columns that stay stand before each one: the place of the first that stands there or later.
        place = (stays.cumsum(0) - stays.long()).clamp(max=int(stays.sum()) - 1)
        return fewer[:, place], moved


def renumbered(pruner: Pruner, policy: Policy, truths: Truths) -> tuple[Pruner, Policy]:
    """The intervention: the pruner drops nothing, and the ids are those of the policy after what it would drop.

    Raises:
        Unservable: the pruner acts inside of the LLM, or the policy puts tokens into another order.
    """
    if pruner.inside or policy.in_order:
        raise Unservable("renumbering without dropping is for pruners before the LLM, and for tokens in raster order")
    choices: Choices = {}
    return Foregone(pruner.keep, pruner.tokens, pruner, choices), Renumbered(policy, choices)
