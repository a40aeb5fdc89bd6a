"""Study 5: how much of a token's place its features say, from the first tower layer to the last of the LLM."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from groundprune.studies.parts.depth import (
    ABOUT,
    accuracy,
    best_of,
    between,
    chance,
    control,
    depth_table,
    draw_depth,
    measured_places,
)
from groundprune.studies.parts.drawing import legend, panels, percent_axis
from groundprune.studies.parts.effects import Effect, no_difference, positive, told
from groundprune.studies.parts.position_reading import read_every_place
from groundprune.studies.parts.probing import LINEAR, MLP, POSITION, TARGETS
from groundprune.studies.parts.states import LLM, PROJECTOR, TOWER, ZEROS, Place
from groundprune.studies.study import FAILS, HOLDS, UNTOLD, Bench, Claim, Findings, Run, Study

# A layer tells places where the linear probe is right of 90% of the tokens, and no longer does below 10%: bounds
# that the paper's two layers (98.37% and 2.61%) are clear of.
TELLS, FORGOTTEN = 0.9, 0.1


class Probe(Study):
    """Linear and MLP probes of row, column and position at every layer."""

    number = 5
    name = "probe"
    title = "Where features know their place"
    question = "How well can a token's position be read from its features in the tower, the projector and the LLM?"
    paper = (
        "As reported: a linear probe predicts the position id from the features of CLIP-L at 98.37% in layer 1 and "
        "at 2.61% in layer 23, which feeds the LLM: places reach it by position ids alone."
    )
    samples = (100, 20)

    def measure(self, bench: Bench) -> None:
        """Probes at every place; a step each."""
        read_every_place(bench)

    def findings(self, runs: Sequence[Run]) -> Findings:
        """What the tower's first and feeding layers tell, what the LLM adds, and the controls."""
        runs = [run for run in runs if run.measured.get(ABOUT)]
        first, feeds = [Place(TOWER, 1)] * len(runs), [Place.of(run.measured[ABOUT]["feeds"]) for run in runs]
        best = [best_of(run, LLM) for run in runs]
        early, late = _all(runs, first), _all(runs, feeds)
        curved = _all(runs, feeds, MLP)
        lost = [between(run, [a], [b]) for run, a, b in zip(runs, first, feeds, strict=True)]
        gained = [between(run, measured_places(run, LLM), [Place(PROJECTOR, 0)]) for run in runs]
        controls = [control(run) for run in runs]
        # What a tower was never given it can neither tell nor forget.
        asked = all(run.measured[ABOUT]["table"] != ZEROS for run in runs)
        claims = [
            Claim(
                "the tower's first layer tells positions", "98.37% in CLIP-L", _levels(early),
                _above(early, TELLS) if asked else UNTOLD,
            ),
            Claim(
                "the layer that feeds the LLM no longer tells them", "2.61% in CLIP-L", _levels(late),
                _below(late, FORGOTTEN),
            ),
            Claim(
                "positions fade between these two layers", "by 95.76 points in CLIP-L", told(lost),
                positive(lost) if asked else UNTOLD,
            ),
            Claim("nor does it tell them to an MLP", "not tested", _levels(curved), _below(curved, FORGOTTEN)),
            Claim(
                "the LLM's layers say more of them than the projector", "not tested", told(gained), positive(gained)
            ),
            Claim("with shuffled labels probes are at chance", "not tested", told(controls), no_difference(controls)),
        ]  # fmt: skip
        tables = [depth_table(run) for run in runs]
        return Findings(_answer(runs, early, late, _all(runs, best), claims), claims, tables, _notes(runs))

    def draw(self, runs: Sequence[Run]) -> Figure:
        """Accuracy over depth, of position, row and column."""
        figure, axes = panels(len(TARGETS), height=3.0)
        for ax, target in zip(axes, (POSITION, *TARGETS[:2]), strict=True):
            for i, run in enumerate(runs):
                draw_depth(ax, run, target, i)
            ax.set_title(target)
            percent_axis(ax, "test tokens read right (%)")
        legend(figure, axes)
        return figure


def _all(runs: Sequence[Run], at: Sequence[Place], kind: str = LINEAR) -> list[Effect]:
    return [accuracy(run, place, kind, POSITION) for run, place in zip(runs, at, strict=True)]


def _above(effects: Sequence[Effect], bound: float) -> str:
    """Whether every interval lies above the bound (HOLDS), every one below it (FAILS), or neither."""
    if not effects or any(not e.n for e in effects):
        return UNTOLD
    if all(e.low > bound for e in effects):
        return HOLDS
    return FAILS if all(e.high < bound for e in effects) else UNTOLD


def _below(effects: Sequence[Effect], bound: float) -> str:
    return {HOLDS: FAILS, FAILS: HOLDS}.get(_above(effects, bound), UNTOLD)


def _levels(effects: Sequence[Effect]) -> str:
    """In percent: "1.0 [0.6, 1.6] (pocket, n = 10), ..."."""
    return ", ".join(
        f"{100 * e.value:.1f} [{100 * e.low:.1f}, {100 * e.high:.1f}] ({e.model}, n = {e.n})"
        if e.n
        else "not measured"
        for e in effects
    )


def _answer(
    runs: Sequence[Run],
    early: Sequence[Effect],
    late: Sequence[Effect],
    best: Sequence[Effect],
    claims: Sequence[Claim],
) -> str:
    if not runs or any(not e.n for e in (*early, *late)):
        return "Nothing was measured yet."

    def percent(effects: Sequence[Effect]) -> str:
        return " / ".join(f"{100 * e.value:.1f}%" if e.n else "-" for e in effects)

    guess = " / ".join(dict.fromkeys(f"{100 * chance(run, POSITION):.1f}%" for run in runs))
    known = {HOLDS: "does not say where its tokens stand", FAILS: "still says where its tokens stand"}
    state = known.get(claims[1].verdict, "says a little of where its tokens stand")
    return (
        f"The tower layer that feeds the LLM {state}: a linear probe reads {percent(late)} of the positions there, "
        f"{percent(early)} in the tower's first layer and {percent(best)} in the best layer of the LLM, by chance "
        f"{guess}."
    )


def _notes(runs: Sequence[Run]) -> list[str]:
    notes = [
        "probes learn from other images than they are asked about; intervals are over test images",
        "layer 0 of the tower is what enters its first block; the LLM reads an unpruned prompt with its own ids, and "
        "its last layer stands behind the final norm",
    ]
    for run in runs:
        if run.measured[ABOUT]["table"] == ZEROS:
            notes.append(
                f"{run.model}: the tower's position embeddings are all zeros, so that it cannot forget what it was "
                "never given: what is read there comes from what scenes look like, and the LLM's from its ids"
            )
    return notes
