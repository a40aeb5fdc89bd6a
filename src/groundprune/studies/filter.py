"""Study 7: does dropping tokens filter out what misleads, so that the answer is better than with all of them?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from matplotlib.figure import Figure

from groundprune.data import DataSet
from groundprune.evaluation.interventions import Intervention
from groundprune.evaluation.specs import Setting
from groundprune.studies.parts.attending import measure_attention
from groundprune.studies.parts.drawing import legend, panels
from groundprune.studies.parts.effects import Effect, difference, differences, positive, told, told_share
from groundprune.studies.parts.filter_drops import (
    EQUAL,
    KEEPS,
    NAMES,
    PRUNERS,
    SHARES,
    UNPRUNED,
    accuracy_table,
    attention,
    attention_table,
    equal,
    much,
    tokens_dropped,
    types_of,
)
from groundprune.studies.parts.filter_figure import draw_attention, draw_gains, draw_shares
from groundprune.studies.parts.forcing import dropping
from groundprune.studies.parts.noise import noisy_data
from groundprune.studies.parts.verdicts import any_of
from groundprune.studies.study import HOLDS, Bench, Claim, Findings, Run, Study

# Whose attention is claimed of; by the name that it is measured under.
LOOKED = (NAMES["distractors"], "whole background")


class Filter(Study):
    """Gains over the unpruned model, on scenes where it has room for them."""

    number = 7
    name = "filter"
    title = "Is pruning a spatial noise filter?"
    question = (
        "Where ids are preserved, does dropping background, distractors or random tokens raise accuracy over the "
        "unpruned model, and where does the answer's attention go?"
    )
    paper = (
        "At 75 to 90% of the tokens dropped, GAP is sometimes above the unpruned model (as reported). Readers ask "
        "whether pruning acts as a spatial noise filter."
    )
    samples = (600, 80)
    kinds = ("rec",)
    interventions: ClassVar[Mapping[str, Intervention]] = {
        **{f"equal-{region}": dropping(region, like=EQUAL) for region in EQUAL},
        **{f"{r}-{s:g}": dropping(r, like=("background",), share=s) for r in ("background", "any") for s in SHARES},
    }

    def asked(self, data: DataSet) -> DataSet:
        """Scenes with noise, so that the unpruned model is right in about 70% of them."""
        return noisy_data(data)

    def settings(self, quick: bool) -> list[Setting]:
        """Unpruned; equal counts of each region; more and more of the background; pruners at high ratios."""
        shares = (0.5, 1.0) if quick else SHARES
        return [
            UNPRUNED, *map(equal, EQUAL), *(much(r, share) for r in ("background", "any") for share in shares),
            *(Setting.of(pruner, keep) for pruner in PRUNERS for keep in KEEPS),
        ]  # fmt: skip

    def measure(self, bench: Bench) -> None:
        """Attention of the answers over the image, before and after each drop."""
        measured = {NAMES[region]: equal(region) for region in EQUAL} | {"whole background": much("background", 1.0)}
        measure_attention(bench, measured, self.interventions, 24 if bench.quick else 160)

    def findings(self, runs: Sequence[Run]) -> Findings:
        """Gains, on which expressions they lie, and attention."""
        few = {region: differences(runs, equal(region), UNPRUNED, "rec") for region in EQUAL}
        most = differences(runs, much("background", 1.0), UNPRUNED, "rec")
        beside = differences(runs, much("background", 1.0), much("any", 1.0), "rec")
        high = {(p, k): differences(runs, Setting.of(p, k), UNPRUNED, "rec") for p in PRUNERS for k in KEEPS}
        could = {key: effects for key, effects in high.items() if all(e.n for e in effects)}
        high = could or high  # a pruner that the models cannot run says nothing
        verdicts = {key: positive(effects) for key, effects in high.items()}
        best = max(high, key=lambda key: sum(e.value for e in high[key]))
        types = types_of(runs)
        by_type = {(r, t): differences(runs, equal(r), UNPRUNED, "rec", [t]) for r in EQUAL for t in types}
        gains = [key for key, effects in by_type.items() if positive(effects) == HOLDS]
        bared = {n: [attention(run, n, "target", "target_before") for run in runs] for n in LOOKED}
        beyond = {n: [attention(run, n, "target", "target_left") for run in runs] for n in LOOKED}
        drops = {
            "distractors": "dropping only distractors raises accuracy over the unpruned model",
            "background": "dropping as many tokens of the background alone raises it",
            "any": "dropping as many at random raises it",
        }
        claims = [Claim(drops[r], "asked by readers", told(few[r]), positive(few[r])) for r in drops]
        claims += [
            Claim("dropping all of the background raises it", "asked by readers", told(most), positive(most)),
            Claim(
                "dropping the background is better than as many at random", "asked by readers", told(beside),
                positive(beside),
            ),
            Claim(
                "a pruner is above the unpruned model where 75 or 90% are dropped", "sometimes, at 75 to 90%",
                f"the best of {len(high)}, {best[0]} {best[1]}: {told(high[best])}", any_of(list(verdicts.values())),
            ),
            Claim(
                "some type of expression gains from dropping tokens of one region", "asked by readers",
                "; ".join(f"{NAMES[r]}, {t}: {told(by_type[r, t])}" for r, t in gains) or "none of "
                + ", ".join(types), any_of([positive(effects) for effects in by_type.values()]),
            ),
        ]  # fmt: skip
        for name in LOOKED:
            claims += [
                Claim(
                    f"without the {name} the answer looks more at the target", "asked by readers", told(bared[name]),
                    positive(bared[name]),
                ),
                Claim(
                    f"without the {name} the target gains more attention than what the dropped tokens leave over",
                    "asked by readers", told(beyond[name]), positive(beyond[name]),
                ),
            ]  # fmt: skip
        notes = [
            "The pocket's scenes have noise over them, other data has none; the unpruned model is right in: "
            f"{' / '.join(told_share(run.share(UNPRUNED, 'rec')) for run in runs)} percent.",
            "Equal counts: of each sample as many tokens go as the smaller of distractors and background has; "
            f"{tokens_dropped(runs)}. A token that shows a part of the target is neither; at random any may go.",
            "Whoever drops distractors knows what is not asked for: what is left is also easier to guess. No "
            "pruner of a user's knows it.",
            "Attention is the mean over the answer's tokens, heads and layers. Left over: what the dropped tokens "
            "got before, spread in proportion over the others.",
            *(f"{run.model} could not run {id}: {why}" for run in runs for id, why in run.skipped.items()),
        ]
        tables = [accuracy_table(runs, types), attention_table(runs)]
        return Findings(_answer(few, most, beside, high[best], f"{best[0]} {best[1]}"), claims, tables, notes)

    def draw(self, runs: Sequence[Run]) -> Figure:
        """Gains by region and type; accuracy over how much of the background is gone; attention on the target."""
        figure, axes = panels(3, height=3.0)
        types = types_of(runs)
        draw_gains(axes[0], {
            NAMES[r]: {t: [difference(run, equal(r), UNPRUNED, "rec", None if t == "all" else [t]) for run in runs]
                       for t in ("all", *types)} for r in EQUAL
        })  # fmt: skip
        draw_shares(axes[1], [
            {NAMES[r]: [run.share(s, "rec") for s in (UNPRUNED, *(much(r, share) for share in SHARES))]
             for r in ("background", "any")} for run in runs
        ], [0.0, *SHARES])  # fmt: skip
        names = [*(NAMES[r] for r in EQUAL), "whole background"]
        parts = {"before": "target_before", "left over": "target_left", "after": "target"}
        draw_attention(
            axes[2], [{n: {p: attention(run, n, c) for p, c in parts.items()} for n in names} for run in runs]
        )
        legend(figure, axes)
        return figure


def _answer(
    few: Mapping[str, Sequence[Effect]], most: Sequence[Effect], beside: Sequence[Effect], best: Sequence[Effect],
    name: str,
) -> str:  # fmt: skip
    def points(effects: Sequence[Effect]) -> str:
        return " / ".join(f"{100 * e.value:+.1f}" if e.n else "-" for e in effects)

    return (
        f"Over the unpruned model, dropping distractors alone (with the truth in hand) gives "
        f"{points(few['distractors'])} points of REC, as many tokens of background {points(few['background'])}, as "
        f"many at random {points(few['any'])}, the whole background {points(most)} ({points(beside)} over as many at "
        f"random), and the best pruner at 75 or 90% ({name}) {points(best)}."
    )
