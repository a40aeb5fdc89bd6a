"""Study 1: nothing is dropped, only ids move."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from groundprune.evaluation.specs import Setting
from groundprune.studies.parts.contrasts import points
from groundprune.studies.parts.drawing import legend, line, panels, percent_axis
from groundprune.studies.parts.effects import differences, negative, no_difference, told, told_share
from groundprune.studies.study import FAILS, HOLDS, Claim, Findings, Run, Study, Table

UNPRUNED = Setting.of()
SHARES = ("0.02", "0.05", "0.1", "0.25", "0.5", "0.75", "1")
QUICK_SHARES = ("0.05", "0.25", "1")
SHIFTS = (-2, 1, 8, 64, 256)
FACTORS = ("1/2", "3/4", "5/4", "3/2", "2")
QUICK_FACTORS = ("3/4", "2")


class Misalignment(Study):
    """Permuted, shifted and stretched ids, each apart from pruning."""

    number = 1
    name = "misalignment"
    title = "Misaligned ids without pruning"
    question = "With every visual token in place, how much does moving the position ids alone cost?"
    paper = (
        "Two misalignments are tested with no token removed: ids in another order (permuted) and ids that are moved "
        "(shifted). Both are said to break grounding, while VQA hardly moves."
    )

    def settings(self, quick: bool) -> list[Setting]:
        """Unpruned, and each misalignment at several strengths."""
        shares, factors = (QUICK_SHARES, QUICK_FACTORS) if quick else (SHARES, FACTORS)
        return [UNPRUNED, *map(permuted, shares), *map(shifted, SHIFTS), *map(scaled, factors)]

    def findings(self, runs: Sequence[Run]) -> Findings:
        """Every misalignment at its strongest, against the unpruned model."""
        order = {kind: differences(runs, permuted("1"), UNPRUNED, kind) for kind in self.kinds}
        shift = {by: differences(runs, shifted(by), UNPRUNED, "rec") for by in SHIFTS}
        wide = differences(runs, scaled("2"), UNPRUNED, "rec")
        every = [effect for effects in shift.values() for effect in effects if effect.n]
        worst = str(min(every, key=lambda effect: effect.value)) if every else "not measured"
        claims = [
            Claim("ids in another order break grounding", "yes", told(order["rec"]), negative(order["rec"])),
            Claim("ids in another order lower VQA", "hardly", told(order["vqa"]), negative(order["vqa"])),
            Claim("ids that are stretched twofold break grounding", "not tested", told(wide), negative(wide)),
            Claim(
                "one common shift of all ids changes nothing", "no: shifted ids break grounding",
                f"the worst of {', '.join(f'{by:+d}' for by in SHIFTS)}: {worst}", no_difference(every),
            ),
        ]  # fmt: skip
        loose = {HOLDS: "does not matter", FAILS: "matters too"}.get(claims[3].verdict, "matters little if at all")
        answer = (
            f"The layout of the ids carries grounding: permuting them moves REC by {points(order['rec'])} points and "
            f"VQA by {points(order['vqa'])} with every token in place; a common shift {loose}."
        )
        tables = [_table(runs, kind) for kind in self.kinds]
        notes = [f"{run.model} could not run {id}: {why}" for run in runs for id, why in run.skipped.items()]
        return Findings(answer, claims, tables, notes)

    def draw(self, runs: Sequence[Run]) -> Figure:
        """Accuracy over the share of permuted ids, over the shift and over the factor."""
        figure, axes = panels(3)
        drawn = (
            ({"0": UNPRUNED} | {f"{100 * float(s):g}": permuted(s) for s in SHARES}, "ids permuted (%)"),
            ({f"{by:+d}": shifted(by) for by in SHIFTS}, "all ids shifted by"),
            ({f: scaled(f) for f in FACTORS}, "ids of the image stretched by"),
        )
        for ax, (settings, label) in zip(axes, drawn, strict=True):
            for i, run in enumerate(runs):
                for kind, look in (("rec", "preserved"), ("vqa", "official")):
                    shares = [run.share(setting, kind) for setting in settings.values()]
                    line(ax, range(len(settings)), shares, kind.upper(), i, look)
            ax.set_xticks(range(len(settings)), list(settings))
            ax.set_xlabel(label)
            percent_axis(ax, "right answers (%)")
        legend(figure, axes)
        return figure


def permuted(share: str) -> Setting:
    """Unpruned, a share of the visual ids shuffled among each other."""
    return Setting.of(positions="permuted:0" if share == "1" else f"permuted:0:{share}")


def shifted(by: int) -> Setting:
    """Unpruned, the ids from the image on moved."""
    return Setting.of(positions=f"shifted:{by}")


def scaled(factor: str) -> Setting:
    """Unpruned, the ids of the image spread over a longer or shorter range."""
    return Setting.of(positions=f"scaled:{factor}")


def _table(runs: Sequence[Run], kind: str) -> Table:
    types = sorted({row["type"] for run in runs for row in run.rows if row["kind"] == kind})
    settings = {row["setting"] for run in runs for row in run.rows}
    shown = (UNPRUNED, *map(permuted, SHARES), *map(shifted, SHIFTS), *map(scaled, FACTORS))
    rows = [
        [s.label, *(told_share(run.share(s, kind, only)) for only in (None, *([t] for t in types)) for run in runs)]
        for s in shown
        if s.id in settings
    ]
    header = ["ids", *(f"{name}, {run.model}" for name in ("all", *types) for run in runs)]
    return Table(f"{kind.upper()}, right answers in percent", header, rows)
