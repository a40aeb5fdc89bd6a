"""What is compared: one Setting per (pruner, budget, position policy)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from groundprune.errors import GroundPruneError
from groundprune.pruners import Pruner, make_pruner
from groundprune.pruners.spatial import Spatial
from groundprune.pruners.spec import Spec, short_name, spec_of
from groundprune.tokens.budget import Budget
from groundprune.tokens.positions import Policy, parse_policy

PRUNERS = ("random", "spatial", "cls-visual", "text-visual")
KEEPS = ("0.75", "0.5", "0.25", "0.1")
MAIN_POSITIONS = ("preserved", "reassigned")
# At one keep only: which part of the damage comes from the image's ids and which from the text's.
SPLIT_KEEP = "0.5"
SPLIT_POSITIONS = ("reassigned-image", "stretched")
# Nothing is dropped, only ids change: how much of the damage needs no pruning at all.
WHOLE_POSITIONS = ("shifted:1", "shifted:8", "shifted:64", "permuted:0")


@dataclass(frozen=True)
class Setting:
    """One way to run the model. Build one with `Setting.of`, which validates and normalises.

    Attributes:
        pruner: with its options in text, `hired:alpha=0.3`, see `Spec`; None = nothing is dropped, and `positions`
            alone acts.
        keep: the pruner's budget as a share, as text in its shortest form; or
        tokens: as a count.
        positions: the position policy.
        intervention: what a study changes of pruner or policy with the truth in hand, by name, see
            `groundprune.evaluation.interventions`.
    """

    pruner: str | None = None
    keep: str | None = None
    tokens: int | None = None
    positions: str = "preserved"
    intervention: str | None = None

    @staticmethod
    def of(
        pruner: str | None = None,
        keep: float | str | None = None,
        tokens: int | str | None = None,
        positions: str = "preserved",
    ) -> Setting:
        """A setting in the words of a user.

        Args:
            pruner: in text, which may hold the budget; None = nothing is dropped.
            keep: a share.
            tokens: a count per image.
            positions: one of `groundprune.tokens.positions.FORMS`.

        Returns:
            Setting, normalised.

        Raises:
            GroundPruneError: a name that is unknown, or a value out of range.
        """
        if pruner is None:
            if keep is not None or tokens is not None:
                raise GroundPruneError("keep= and tokens= need a pruner")
            return Setting(positions=str(parse_policy(positions)))
        made, name = make_pruner(pruner, keep, tokens), Spec.parse(pruner).pruner
        options = spec_of(made, name).options
        policy = parse_policy(positions, made.official_positions)
        # "official" keeps its name: what it stands for is the pruner's own affair.
        named = positions if positions == "official" else str(policy)
        # An id without options is the name alone, as it always was.
        text, budget = str(Spec(name, options=options)) if options else name, made.budget
        return Setting(text, str(budget.share) if budget.share is not None else None, budget.tokens, named).short()

    def short(self) -> Setting:
        """The same with `keep` as a decimal where that is exact: 1/2 -> 0.5, but 1/3 -> 1/3."""
        share = Budget.parse(self.keep).share if self.keep is not None else None
        if share is None:
            return self
        decimal = f"{float(share):g}"
        keep = decimal if Budget.parse(decimal).share == share else str(share)
        return replace(self, keep=keep)

    @property
    def budget(self) -> str | None:
        """ "0.5" or "64 tokens"; None where nothing is dropped."""
        return self.keep if self.tokens is None else f"{self.tokens} tokens"

    @property
    def id(self) -> str:
        """Stable over releases: result files are keyed by it."""
        budget = f"keep={self.keep}" if self.tokens is None else f"tokens={self.tokens}"
        parts = ["unpruned", *self._named()] if self.pruner is None else [self.pruner, budget, self.positions]
        return "/".join([*parts, *filter(None, [self.intervention])])

    @property
    def label(self) -> str:
        """For people, see `Spec.short`."""
        if self.pruner is None:
            parts = ["unpruned", *self._named()]
        else:
            parts = [f"{short_name(self.pruner)} {self.budget}", self.positions]
        return ", ".join([*parts, *filter(None, [self.intervention])])

    def _named(self) -> list[str]:
        return [] if self.positions == "preserved" else [self.positions]

    @property
    def plain(self) -> bool:
        """True: the stock model, without any hook."""
        return self.pruner is None and self.positions == "preserved" and self.intervention is None

    def make_pruner(self) -> Pruner:
        """The pruner to run with; where nothing is dropped, any one that keeps all."""
        return Spatial(keep=1) if self.pruner is None else make_pruner(self.pruner, self.keep, self.tokens)

    def policy(self, pruner: Pruner, config: Any) -> Policy:
        """The position policy to run with.

        Args:
            pruner: what `make_pruner` gave.
            config: of the model that is run.

        Returns:
            Policy; of "official", what the pruner's authors do with such a model.
        """
        return parse_policy(self.positions, pruner.official(config))


def compare_settings(
    pruners: Sequence[str] = PRUNERS,
    keeps: Sequence[float | str] = KEEPS,
    positions: Sequence[str] | None = None,
    tokens: Sequence[int | str] = (),
) -> list[Setting]:
    """The grid of `compare`: the unpruned model first, then every pruner x budget x policy, no setting twice.

    Policies that act without pruning are, when asked for by name, also run without it.

    Args:
        pruners: in text; one whose text holds a budget has that one alone.
        keeps: budgets as shares.
        positions: policies; None = preserved and reassigned everywhere, reassigned-image and stretched at keep 0.5
            where that is among `keeps`, and shifted and permuted ids without pruning.
        tokens: budgets as counts, beside `keeps`.

    Returns:
        The settings in the order in which they are run.

    Raises:
        GroundPruneError: before any work, an unknown pruner or policy, or a budget out of range.
    """
    settings = [Setting.of()]
    budgets = [(keep, None) for keep in keeps] + [(None, count) for count in tokens]
    for pruner in pruners:
        for keep, count in [(None, None)] if Spec.parse(pruner).has_budget else budgets:
            settings += [Setting.of(pruner, keep, count, p) for p in positions or MAIN_POSITIONS]
    if positions is None:
        at_half = [s for s in settings if s.keep == SPLIT_KEEP and s.positions == "preserved"]
        settings += [Setting.of(s.pruner, s.keep, positions=p) for s in at_half for p in SPLIT_POSITIONS]
    alone = WHOLE_POSITIONS if positions is None else positions
    named = [p for p in alone if p != "official"]  # which names a policy only together with a pruner
    settings += [Setting.of(positions=p) for p in named if parse_policy(p).changes_whole_rows]
    return unique(settings)


def unique(settings: Iterable[Setting]) -> list[Setting]:
    """The settings in their order, each once."""
    return list({setting.id: setting for setting in settings}.values())
