"""Study 11: where a model could learn from where things are, and whether ids still decide."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from matplotlib.figure import Figure

from groundprune.studies.parts.contrasts import cell
from groundprune.studies.parts.depth import ABOUT, accuracy, measured_places
from groundprune.studies.parts.drawing import legend, panels
from groundprune.studies.parts.effects import Effect, negative, positive, within
from groundprune.studies.parts.position_reading import read_every_place
from groundprune.studies.parts.probing import LINEAR, POSITION
from groundprune.studies.parts.states import PROJECTOR, TOWER, Place
from groundprune.studies.parts.trained import (
    KEEP,
    LEARNT,
    MARGIN_NEED,
    NEED,
    PERMUTED,
    UNPRUNED,
    TrainedStudy,
    Variants,
    kept,
    minus,
    part_of_unpruned,
    right,
)
from groundprune.studies.parts.trained_tables import draw_variants, percent, told_points
from groundprune.studies.study import FAILS, HOLDS, UNTOLD, Bench, Claim, Findings, Run, Table

PLAIN, LEARNED = "plain", "learned"
TOWERS = {
    "learned": "learned position embeddings",
    "rotary": "2-D rotary positions",
    "regularised": "learned positions that its last layers are trained to keep",
    "joint": "learned positions, trained on with the language model",
}
COORDINATES = {"before": "added before the projector", "after": "added after it"}
PROJECTORS = {"linear": "a linear", "conv": "a convolutional"}
PROBED = 60  # images that probes learn from and are asked about
STANDS = 0.9  # of what preserved ids give: where reassigned ones give as much, ids are needless


class Sources(TrainedStudy):
    """Seven towers with one projector, two more projectors on one of them."""

    number = 11
    name = "sources"
    title = "Other sources of positions"
    question = (
        "If the tower or the projector told the language model where things are, would position ids still matter?"
    )
    paper = (
        "Not tested. Its readers ask whether explicit coordinates, or a tower that keeps positions, would make "
        "preserved ids needless."
    )
    variants: ClassVar = {
        PLAIN: "a tower without any position signal, and an MLP projector",
        **{name: f"a tower with {what}" for name, what in TOWERS.items()},
        **{name: f"plain, explicit coordinates {what}" for name, what in COORDINATES.items()},
        **{name: f"learned, with {what} projector" for name, what in PROJECTORS.items()},
    }

    def measure(self, bench: Bench) -> None:
        """Probes of positions at every layer."""
        read_every_place(bench, (TOWER, PROJECTOR), PROBED)

    def findings(self, runs: Sequence[Run]) -> Findings:
        """Of each source: how much less a model needs preserved ids with it, over seeds."""
        found = Variants(runs)
        claims = [_collapses(found)]
        for name, what in TOWERS.items():
            less = found.less(PLAIN, name, NEED)
            claims.append(
                Claim(f"a tower with {what} needs preserved ids less", "asked, not tested",
                      _told_less(found, name, less), positive([less], MARGIN_NEED))
            )  # fmt: skip
        for name, what in COORDINATES.items():
            enough, less = found.told_of(name, _beyond), found.less(PLAIN, name, NEED)
            claims.append(
                Claim(f"explicit coordinates {what} make preserved ids needless", "asked, not tested",
                      f"REC with reassigned ids less {100 * STANDS:g}% of that with preserved ones: "
                      f"{told_points(enough)}", positive([enough], 0))
            )  # fmt: skip
            claims.append(
                Claim(f"explicit coordinates {what} lessen the need", "asked, not tested",
                      _told_less(found, name, less), positive([less], MARGIN_NEED))
            )  # fmt: skip
        for name, what in PROJECTORS.items():
            less = found.less(LEARNED, name, NEED)
            claims.append(
                Claim(f"{what} projector changes the need (against an MLP)", "not tested",
                      _told_less(found, name, less), _changes(less))
            )  # fmt: skip
        notes = [
            "Need: of what is right with preserved ids, the share that reassigned ids take, half of the tokens being "
            "dropped and none of an object's. Intervals are Student's, over trainings; a difference is paired by "
            f"seed. A difference of less than {100 * MARGIN_NEED:g} points is none.",
            f"Nothing is concluded of a variant whose unpruned REC is under {100 * LEARNT:g} in a training.",
            *found.note(list(self.variants)),
        ]
        return Findings(_answer(found), claims, [_table(found, self.variants), _layers(found)], notes)

    def draw(self, runs: Sequence[Run]) -> Figure:
        """Accuracies by variant; what a probe reads of positions over depth; and the need over what it reads."""
        found, names = Variants(runs), list(self.variants)
        figure, axes = panels(3, height=3.6)
        arms = {"unpruned": UNPRUNED, "preserved": kept("preserved"), "reassigned": kept("reassigned")}
        draw_variants(axes[0], found, names, "rec", arms)
        for i, name in enumerate(names):
            colour, marker = _look(i)
            of = found.runs(name)
            places = [p for p in measured_places(of[0]) if p.part in (TOWER, PROJECTOR)] if of else []
            reads = [_mean_read(of, place) for place in places]
            axes[1].plot(range(len(reads)), [100 * r for r in reads], color=colour, marker=marker, label=name)
            if places:
                axes[1].set_xticks(range(len(places)), [_short(place) for place in places])
            for run in of:
                need = NEED(run)
                if need is not None and places:
                    axes[2].plot(
                        100 * _mean_read([run], places[-1]), 100 * need, color=colour, marker=marker, linestyle="none"
                    )
        axes[1].set_xlabel("tower layer  |  P: projector")
        axes[1].set_ylabel("positions that a linear probe reads (%)")
        axes[2].set_xlabel("positions read behind the projector (%)")
        axes[2].set_ylabel("taken by reassigned ids (%)")
        axes[2].set_ylim(-4, 104)
        for ax in axes[1:]:
            ax.grid(axis="y")
        legend(figure, axes)
        return figure


_beyond = minus(part_of_unpruned(kept("reassigned")), part_of_unpruned(kept("preserved")), STANDS)


def _collapses(found: Variants) -> Claim:
    need = found.told_of(PLAIN, NEED)
    return Claim(
        "without any position signal in the tower, REC needs preserved ids", "yes: 56.14 to 15.34 without",
        f"{told_points(need)} of what preserved ids give", positive([need], 0),
    )  # fmt: skip


def _told_less(found: Variants, name: str, less: Effect) -> str:
    return f"need {percent(found.told_of(name, NEED))}; less by {told_points(less)}"


def _changes(less: Effect) -> str:
    """Of "it makes a difference": the other way round than `no_difference`, but that a small one is one."""
    if HOLDS in (positive([less], 0), negative([less], 0)):
        return HOLDS
    return FAILS if within([less], MARGIN_NEED) else UNTOLD


def _mean_read(runs: Sequence[Run], place: Place) -> float:
    return sum(accuracy(run, place, LINEAR, POSITION).value for run in runs) / len(runs)


def _short(place: Place) -> str:
    return "P" if place.part == PROJECTOR else str(place.layer)


def _look(i: int) -> tuple[str, str]:
    colours = ("#222222", "#0072b2", "#56b4e9", "#009e73", "#d55e00", "#e69f00", "#cc79a7", "#7f7f7f", "#8c564b")
    return colours[i % len(colours)], "osD^vPX<>"[i % 9]


def _table(found: Variants, variants: Mapping[str, str]) -> Table:
    header = [
        "variant", "what it is", "unpruned REC", "unpruned VQA", "preserved", "reassigned", "need", "recovered",
        "divprune preserved", "divprune reassigned", "ids permuted",
    ]  # fmt: skip
    rows = []
    for name, what in variants.items():
        measures = [
            right(UNPRUNED), right(UNPRUNED, "vqa"), right(kept("preserved")), right(kept("reassigned")), NEED,
            part_of_unpruned(kept("preserved")), right(cell("divprune", KEEP)),
            right(cell("divprune", KEEP, "reassigned")), right(PERMUTED),
        ]  # fmt: skip
        rows.append([name, what, *(percent(found.mean(name, measure)) for measure in measures)])
    return Table("Percent, mean over trainings; half of the tokens dropped, none of an object's", header, rows)


def _layers(found: Variants) -> Table:
    header, rows = ["variant"], []
    for name in Sources.variants:
        of = found.runs(name)
        if not of or not of[0].measured.get(ABOUT):
            continue
        places = measured_places(of[0])
        header = ["variant", *map(str, places)]
        rows.append([name, *(f"{100 * _mean_read(of, place):.1f}" for place in places)])
    return Table("Positions that a linear probe reads, in percent, mean over trainings", header, rows)


def _answer(found: Variants) -> str:
    need = {name: found.told_of(name, NEED) for name in Sources.variants}
    known = {name: effect for name, effect in need.items() if effect.n}
    if PLAIN not in known:
        return "Nothing was measured of a model that has learnt to ground."
    told = ", ".join(f"{name} {100 * effect.value:.0f}%" for name, effect in known.items())
    return f"Of the REC that preserved ids give, reassigned ones take, by source of positions: {told}."
