"""Study 10: nothing is dropped; the ids of a part of the tokens move, or some ids are wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

from matplotlib.figure import Figure

from groundprune.evaluation.interventions import Intervention
from groundprune.evaluation.specs import Setting
from groundprune.studies.parts.drawing import legend, panels
from groundprune.studies.parts.effects import Effect, differences, negative, no_difference, positive, told
from groundprune.studies.parts.following import CELLS, half_lost, measure_cells, slope, told_cells
from groundprune.studies.parts.mechanism_figure import draw_map, draw_parts, draw_wrong
from groundprune.studies.parts.mechanism_moves import (
    COUNTS,
    QUICK_COUNTS,
    QUICK_STEPS,
    STEPS,
    UNPRUNED,
    WAYS,
    astray,
    at,
    curve,
    ids_of,
    movement,
    name,
    of_target,
    parts_table,
    shift,
    wrong_table,
)
from groundprune.studies.parts.moving import AXES, PARTS, moved, wrong
from groundprune.studies.parts.verdicts import all_of
from groundprune.studies.study import FAILS, HOLDS, UNTOLD, Bench, Claim, Findings, Run, Study

STILL = 0.1  # cells: a mean movement within this is none
FEW = 0.25  # of all ids: half of the accuracy lost below this share is lost to few


class Mechanism(Study):
    """From ids to coordinates, token by token."""

    number = 10
    name = "mechanism"
    title = "From position ids to boxes"
    question = (
        "With every token in place, where does the box go when the ids of some tokens move, and how many ids can be "
        "wrong before grounding breaks?"
    )
    paper = (
        "Grounding breaks because retained tokens get new ids: both the order and the values of the ids are said to "
        "matter (as reported). Which ids carry the coordinates, and how many may be wrong, is not said."
    )
    samples = (300, 60)
    kinds = ("rec",)
    columns = ("box",)
    interventions: ClassVar[Mapping[str, Intervention]] = {
        **{name(part, axis, by): moved(part, axis, by) for part in PARTS for axis in AXES for by in STEPS},
        **{f"{how}-{count or 'all'}": wrong(how, count) for how in WAYS for count in (*COUNTS, None)},
    }

    def settings(self, quick: bool) -> list[Setting]:
        """Unpruned; the target's ids by several cells; every other part's by one; wrong ids, more and more."""
        steps, counts = (QUICK_STEPS, QUICK_COUNTS) if quick else (STEPS, COUNTS)
        of_target = [shift("target", axis, by) for axis in AXES for by in steps]
        of_parts = [shift(part, axis, 1) for part in PARTS if part != "target" for axis in AXES]
        return [UNPRUNED, *of_target, *of_parts, *(astray(how, k) for how in WAYS for k in (*counts, None))]

    def measure(self, bench: Bench) -> None:
        """How large a cell of the model's grid is in each image."""
        measure_cells(bench)

    def findings(self, runs: Sequence[Run]) -> Findings:
        """What follows what, and how many wrong ids grounding stands."""
        went = {part: [movement(run, part, axis) for axis in AXES for run in runs] for part in PARTS}
        steep = [slope(run, UNPRUNED, of_target(axis), axis) for axis in AXES for run in runs]
        from_one = [replace(e, value=e.value - 1, low=e.low - 1, high=e.high - 1) for e in steep]
        one_wrong = differences(runs, astray("displaced", 1), UNPRUNED, "rec")
        half = {how: [half_lost(run, UNPRUNED, curve(run, how)) for run in runs] for how in WAYS}
        edges = [*went["first row"], *went["last row"]]
        # A part that moves the box along one axis is enough to say no.
        still = all_of(
            [no_difference(edges[i : i + len(runs)], STILL) for i in range(0, len(edges), max(1, len(runs)))]
        )
        claims = [
            Claim(
                "a common shift of the image and what follows, by a row or a column, moves no box (control)",
                "no: shifted ids break grounding (as reported)", told_by_axis(went["all"]),
                no_difference(went["all"], STILL),
            ),
            Claim(
                "the box goes where the ids of the target's tokens go", "not tested", told_by_axis(went["target"]),
                positive(went["target"], STILL),
            ),
            Claim(
                "a cell of the target's ids is a cell of the box (slope 1 over all shifts)", "not tested",
                told_by_axis(steep), no_difference(from_one, STILL),
            ),
            Claim(
                "the box goes against the ids of all other tokens", "not tested", told_by_axis(went["rest"]),
                negative(went["rest"], STILL),
            ),
            Claim(
                "the box goes with the grid where the text stays", "not tested", told_by_axis(went["grid"]),
                positive(went["grid"], STILL),
            ),
            Claim(
                "the box goes against the text where the grid stays: the text is the origin", "not tested",
                told_by_axis(went["text"]), negative(went["text"], STILL),
            ),
            Claim(
                "the first and the last row of ids are no anchor: moved alone, they move no box", "not tested",
                told_by_axis(edges), still,
            ),
            Claim(
                "the id of one token of the target moves no box", "not tested",
                told_by_axis(went["one of the target"]), no_difference(went["one of the target"], STILL),
            ),
            Claim("one wrong id costs no accuracy", "not tested", told(one_wrong), no_difference(one_wrong)),
            Claim(
                f"fewer than {100 * FEW:g}% of wrong ids cost half of the accuracy", "not tested",
                _told_half(half["displaced"], runs), few(half["displaced"], runs),
            ),
        ]  # fmt: skip
        notes = [
            "Movements are of the centre of the predicted box, in cells, on samples that are answered right with all "
            "ids in place and whose boxes can be read; where target, one of its tokens, grid or text move, on those "
            "whose box stays in the image if it follows. "
            f"None is a mean within {STILL:g} cells.",
            "Ids that move within the grid meet those of the cells beside them: two tokens then share one.",
            "text: what follows the image; all: image and text; one of: a random token, the same under all settings.",
            "Where the grid and the text move apart by a column, an object in the outermost one lands at the other "
            "side, a row off: an expression such as leftmost may then mean another, and the box jumps.",
            *(f"{run.model}: no cells were measured" for run in runs if not run.measured.get(CELLS)),
            *(f"{run.model} could not run {id}: {why}" for run in runs for id, why in run.skipped.items()),
        ]
        return Findings(_answer(went, half, runs), claims, [parts_table(runs), wrong_table(runs)], notes)

    def draw(self, runs: Sequence[Run]) -> Figure:
        """The map from ids to boxes; which part moves the box; accuracy over the number of wrong ids."""
        figure, axes = panels(3, height=3.0)
        draw_map(axes[0], [{a: [at(run, a, by) for by in (0, *STEPS)] for a in AXES} for run in runs], (0, *STEPS))
        draw_parts(axes[1], [{p: {a: movement(run, p, a) for a in AXES} for p in PARTS} for run in runs])
        shares = [
            {
                how: [run.share(s, "rec") for s in (UNPRUNED, *(astray(how, k) for k in (*COUNTS, None)))]
                for how in WAYS
            }
            for run in runs
        ]
        draw_wrong(axes[2], shares, ("0", *map(str, COUNTS), "all"))
        legend(figure, axes)
        return figure


def few(effects: Sequence[Effect], runs: Sequence[Run]) -> str:
    """Whether half is lost below the share FEW of all ids, in every run; UNTOLD where intervals reach over it."""
    limits = [FEW * ids_of(run) for run in runs]
    pairs = list(zip(effects, limits, strict=True))
    if not pairs or any(not e.n or not limit for e, limit in pairs):
        return UNTOLD
    if all(e.high < limit for e, limit in pairs):
        return HOLDS
    return FAILS if all(e.low > limit for e, limit in pairs) else UNTOLD


def told_by_axis(effects: Sequence[Effect]) -> str:
    """Effects of a part or several: of each, rows first."""
    half = len(effects) // 2
    return f"rows: {told_cells(effects[:half])}; columns: {told_cells(effects[half:])}"


def _told_half(effects: Sequence[Effect], runs: Sequence[Run]) -> str:
    return ", ".join(
        f"{e.value:.0f} [{e.low:.0f}, {e.high:.0f}] of {ids_of(run)} ({run.model}, n = {e.n})" if e.n
        else f"not measured ({run.model})"
        for e, run in zip(effects, runs, strict=True)
    )  # fmt: skip


def _answer(went: Mapping[str, Sequence[Effect]], half: Mapping[str, Sequence[Effect]], runs: Sequence[Run]) -> str:
    def short(part: str) -> str:
        values = [f"{e.value:+.2f}" if e.n else "-" for e in went[part]]
        return f"{' / '.join(values[: len(runs)])} cells"

    lost = " / ".join(f"{e.value:.0f}" if e.n else "-" for e in half["displaced"])
    return (
        f"Moving the ids of the target's tokens down by a row moves the box by {short('target')}, moving all other "
        f"tokens' by {short('rest')}, and moving image and text together by {short('all')}; half of REC is lost when "
        f"{lost} of {max(map(ids_of, runs), default=0)} ids are wrong ({' / '.join(run.model for run in runs)})."
    )
