"""Which one pruner and budget a report puts in front: its headline bars and its gallery."""

from __future__ import annotations

from dataclasses import dataclass

from groundprune.errors import GroundPruneError
from groundprune.evaluation.specs import MAIN_POSITIONS, Setting
from groundprune.evaluation.summary import SettingResult, Summary
from groundprune.pruners.spec import short_name
from groundprune.report.tables import DETAILED


@dataclass(frozen=True)
class Shown:
    """results: by "unpruned", "preserved", "reassigned", in this order; what the run does not hold is absent."""

    pruner: str | None
    budget: str | None
    results: dict[str, SettingResult]

    @property
    def title(self) -> str:
        """ "cls-visual, keep 0.5"; what the pruned bars and the shaded tokens belong to."""
        if self.pruner is None:
            return "nothing pruned"
        budget = self.budget or ""
        return f"{short_name(self.pruner)}, {budget if 'tokens' in budget else f'keep {budget}'}"

    @property
    def pruned(self) -> Setting | None:
        """The first of the pruned settings: before the LLM the tokens that stay are those of the others."""
        return next((r.setting for r in self.results.values() if r.setting.pruner), None)


def choose_shown(summary: Summary, pruner: str | None = None, budget: str | None = None) -> Shown:
    """The given pruner and budget ("0.5" or "64 tokens"), or what is most telling among those of the run.

    Raises GroundPruneError where the run holds no such pruner or budget.
    """
    pairs = list(
        dict.fromkeys(
            (r.setting.pruner, r.setting.budget)
            for r in summary.settings
            if r.setting.pruner and r.setting.positions in MAIN_POSITIONS
        )
    )
    fitting = [(p, b) for p, b in pairs if pruner in (None, p, short_name(p or "")) and budget in (None, b)]
    if not fitting and (pruner or budget):
        held = ", ".join(f"{p} {b}" for p, b in pairs) or "no pruner at all"
        wanted = f"{pruner or 'pruner'} at {budget or 'any budget'}"
        raise GroundPruneError(f"the run holds no {wanted} (it holds: {held})")
    first, keep = DETAILED  # the tables show the same in detail
    best = max(fitting, key=lambda pair: (pair[1] == keep, pair[0] == first), default=(None, None))
    found = {"unpruned": summary.result(Setting().id)}
    for setting in (r.setting for r in summary.settings):
        if best[0] and (setting.pruner, setting.budget) == best and setting.positions in MAIN_POSITIONS:
            found[setting.positions] = summary.result(setting.id)
    order = ("unpruned", *MAIN_POSITIONS)
    return Shown(*best, {name: result for name in order if (result := found.get(name)) is not None})
