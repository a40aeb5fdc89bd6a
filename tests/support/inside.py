"""Pruners that act between decoder layers, for tests."""

from dataclasses import dataclass
from fractions import Fraction

import groundprune as gp
from groundprune.signals import Need
from groundprune.tokens.budget import Budget


@dataclass(frozen=True)
class LastRow(gp.Pruner):
    """At one layer, by the attention of the last token in the layer before it."""

    layer: int = 1
    evict: bool = False
    name = "last-row"
    needs = frozenset({Need("llm", kind="attention")})

    def stages(self, n_layers):
        return [gp.Stage(self.layer, self.budget, self.evict)]

    def score(self, signals, layout, stage):
        return signals.llm(stage.layer - 1, "attention").mean((0, 1))


@dataclass(frozen=True)
class Staged(LastRow):
    """Before the LLM (an even grid), at layer 1 and at the last layer but one."""

    name = "staged"

    def stages(self, n_layers):
        if self.budget.share == 1:
            return [gp.Stage(None, self.budget), gp.Stage(1, self.budget), gp.Stage(n_layers - 1, self.budget)]
        half, eighth = Budget(share=Fraction(1, 2)), Budget(share=Fraction(1, 8))
        inside = [gp.Stage(1, half, self.evict), gp.Stage(n_layers - 1, eighth, self.evict)]
        return [gp.Stage(None, Budget(share=Fraction(3, 4))), *inside]

    def select(self, signals, layout, stage):
        if stage.layer is None:
            return gp.Spatial(keep=0.75).select(signals, layout, stage)
        return super().select(signals, layout, stage)
