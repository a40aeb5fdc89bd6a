"""Study 3: every pruner, at every share, under every policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from groundprune.evaluation.specs import Setting, unique
from groundprune.studies.parts.contrasts import cell, contrasts, mean, percents, points, total
from groundprune.studies.parts.effects import Effect, negative, no_difference, positive, told
from groundprune.studies.parts.sweep_pages import drawn, half_table, table
from groundprune.studies.parts.sweep_settings import (
    FEW_KEEPS,
    HALF,
    IN_ORDER,
    KEEPS,
    POLICIES,
    QUICK,
    QUICK_KEEPS,
    RIVALS,
    SIX,
    UNPRUNED,
    Above,
    able,
    above_unpruned,
    best_rival,
    told_above,
)
from groundprune.studies.study import HOLDS, Claim, Findings, Run, Study

Effects = Mapping[str, list[Effect]]  # by kind
KEPT = 0.9  # of the unpruned accuracy: what the paper's LLaVA-v1.5 keeps at 50% is 91.6%


class Sweep(Study):
    """The paper's grid, and finer."""

    number = 3
    name = "sweep"
    title = "Pruners, ratios and policies"
    question = "What do position ids cost, and what does preserving them give back, for each pruner at each ratio?"
    paper = (
        "As reported, ids reassigned at 50% take LLaVA-v1.5 on RefCOCO val from 56.14 to 15.34 and MiniGPT-v2 from "
        "88.69 to 2.73; preserved they keep 51.42 and 68.91. VQA hardly moves. With 75 to 90% removed preserved ids "
        "are sometimes above unpruned. Six pruners; which one gave these numbers is unverified."
    )
    samples = (60, 30)

    def settings(self, quick: bool) -> list[Setting]:
        """Unpruned; preserved and reassigned everywhere, the other policies of the paper's pruners alone."""
        keeps, few = (QUICK_KEEPS, QUICK_KEEPS) if quick else (KEEPS, FEW_KEEPS)
        pruners = [p for p in (*SIX, *RIVALS) if not quick or p in QUICK]
        found = [UNPRUNED]
        for pruner in pruners:
            for policy in POLICIES:
                if policy in ("reassigned-image", "stretched") and pruner not in SIX:
                    continue
                if policy == "official" and pruner not in IN_ORDER:
                    continue  # preserved or reassigned, and so among them already
                at = few if policy in ("reassigned-image", "stretched", "official") else keeps
                found += [cell(pruner, keep, policy) for keep in at]
        return unique(found)

    def findings(self, runs: Sequence[Run]) -> Findings:
        """At half of the tokens, mean over the paper's pruners; and what the whole grid says."""
        lost = {kind: _less(runs, "reassigned", None, kind) for kind in self.kinds}
        kept = {kind: _less(runs, "preserved", None, kind) for kind in self.kinds}
        collapsed = _left(runs, "reassigned", 0.5)
        back = {kind: _less(runs, "preserved", "reassigned", kind) for kind in self.kinds}
        enough, cls = _left(runs, "preserved", KEPT), _left(runs, "preserved", KEPT, ["cls-visual"])
        image = _less(runs, "reassigned-image", "reassigned", "rec")
        wide, narrow = _less(runs, "stretched", "preserved", "rec"), _less(runs, "stretched", "reassigned", "rec")
        above = {kind: above_unpruned(runs, kind) for kind in self.kinds}
        rival, ours = best_rival(runs)
        claims = [
            Claim("50% dropped, ids reassigned: REC collapses (less than half of unpruned is left)",
                  "yes: 56.14 to 15.34, 88.69 to 2.73", f"against half of unpruned: {told(collapsed)}",
                  negative(collapsed, 0)),
            Claim("50% dropped, ids reassigned: VQA does not move", "hardly", told(lost["vqa"]),
                  no_difference(lost["vqa"])),
            Claim("of that loss of VQA none is due to the ids", "hardly moves either way", told(back["vqa"]),
                  no_difference(back["vqa"])),
            Claim("50% dropped: preserving the ids gives REC back", "yes", told(back["rec"]), positive(back["rec"])),
            Claim("50% dropped, ids preserved: 90% of unpruned REC is left, mean over pruners", "91.6% and 77.7%",
                  f"against 90% of unpruned: {told(enough)}", positive(enough, 0)),
            Claim("50% dropped, ids preserved: 90% of unpruned REC is left, cls-visual",
                  "91.6% and 77.7% (pruner unverified)", f"against 90% of unpruned: {told(cls)}", positive(cls, 0)),
            Claim("with 70 to 90% dropped preserved ids are above unpruned somewhere, REC", "sometimes",
                  told_above(above["rec"]), above["rec"].verdict),
            Claim("with 70 to 90% dropped preserved ids are above unpruned somewhere, VQA", "sometimes (of REC)",
                  told_above(above["vqa"]), above["vqa"].verdict),
            Claim("it is the image's ids: the text's own give nothing back", "not reported", told(image),
                  no_difference(image)),
            Claim("stretched ids do worse than preserved ones", "not in the paper (Nuwa's remedy)", told(wide),
                  negative(wide)),
            Claim("stretched ids do better than reassigned ones", "not in the paper (Nuwa's remedy)", told(narrow),
                  positive(narrow)),
            Claim(f"coverage beats the best other pruner ({rival}), ids preserved, mean over keeps",
                  "not in the paper", told(ours), positive(ours)),
        ]  # fmt: skip
        names = ", ".join(able(runs, SIX, "rec", HALF, "preserved")) or "none"
        notes = [
            f"Means at 50% are over {names}: those of the paper's pruners that every run could run; bootstrapped "
            "over samples, each sample counting once.",
            "Above unpruned somewhere: many settings are looked at, so each interval is widened by their number "
            "(Bonferroni).",
            "The best other pruner is chosen on the same samples, which favours it.",
            "official is shown where the authors' code emits tokens in another order; elsewhere it is preserved "
            "or reassigned.",
            *(f"{run.model} could not run {id}: {why}" for run in runs for id, why in run.skipped.items()),
        ]
        answer = _answer(runs, back, lost, kept, above["rec"], rival, ours)
        return Findings(answer, claims, [half_table(runs), *(table(runs, k) for k in self.kinds)], notes)

    def draw(self, runs: Sequence[Run]) -> Figure:
        """Accuracy over the share that is dropped, by policy: a panel per pruner, and two of means."""
        return drawn(runs)


def _less(runs: Sequence[Run], a: str, b: str | None, kind: str) -> list[Effect]:
    """How much better policy a is than b at half of the tokens; b None: than the unpruned model."""
    names = able(runs, SIX, kind, HALF, a, *([b] if b else []))
    other = mean([cell(p, HALF, b) for p in names], -1) if b else {UNPRUNED: -1.0}
    mine = mean([cell(p, HALF, a) for p in names])
    return contrasts(runs, total(mine, other) if names else {}, kind)


def _left(runs: Sequence[Run], policy: str, share: float, pruners: Sequence[str] = SIX) -> list[Effect]:
    """REC at half of the tokens, less a share of the unpruned one."""
    names = able(runs, pruners, "rec", HALF, policy)
    mine = mean([cell(p, HALF, policy) for p in names])
    return contrasts(runs, total(mine, {UNPRUNED: -share}) if names else {}, "rec")


def _answer(
    runs: Sequence[Run], back: Effects, lost: Effects, kept: Effects, above: Above, rival: str, ours: Sequence[Effect]
) -> str:
    whole = contrasts(runs, {UNPRUNED: 1.0}, "rec")
    shares = " / ".join(
        f"{100 * (1 + e.value / w.value):.0f}%" if e.n and w.value else "-"
        for e, w in zip(kept["rec"], whole, strict=True)
    )
    high = "is passed" if above.verdict == HOLDS else "is never passed for sure"
    return (
        f"With half of the tokens dropped reassigned ids cost {points(lost['rec'])} points of REC (unpruned "
        f"{percents(whole)}%) and {points(lost['vqa'])} of VQA, preserving them gives back {points(back['rec'])} and "
        f"{points(back['vqa'])} and keeps {shares} of unpruned REC, which at 70 to 90% dropped {high}; over all "
        f"ratios coverage differs by {points(ours)} from the best other pruner, {rival}."
    )
