"""What the vision tower gave: made by `groundprune.probes.tower`, read by `Signals`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from groundprune.signals.base import Need
from groundprune.tokens.layout import VisualUnit


@dataclass(eq=False)
class TowerRecord:
    """What was recorded while the vision tower ran once over a batch of images.

    Attributes:
        units: what the encoder made of its input, in its order.
        values: per Need, per unit [P, ...] over its tokens.
        fingerprint: one number per unit, a function of its pixels alone.
    """

    units: list[VisualUnit]
    values: dict[Need, list[Tensor]] = field(default_factory=dict)
    fingerprint: list[int] = field(default_factory=list)

    def select(self, units: Sequence[int]) -> TowerRecord:
        """The record of these units, in this order."""
        return TowerRecord(
            [self.units[i] for i in units],
            {need: [value[i] for i in units] for need, value in self.values.items()},
            [self.fingerprint[i] for i in units] if self.fingerprint else [],
        )

    @staticmethod
    def join(records: Sequence[TowerRecord]) -> TowerRecord:
        """One after another, as one. All must have recorded the same needs."""
        needs = records[0].values if records else ()
        values = {need: [v for r in records for v in r.values[need]] for need in needs}
        return TowerRecord(
            [u for r in records for u in r.units],
            values,
            [f for r in records for f in r.fingerprint],
        )
