"""Many pruners at a glance: one table in place of one each, who wins where, and what was left out."""

from __future__ import annotations

from collections.abc import Iterator

from groundprune.errors import GroundPruneError
from groundprune.evaluation.specs import Setting
from groundprune.evaluation.summary import Share, Summary
from groundprune.pruners import Pruner, Spec, make_pruner, pruner_names
from groundprune.pruners.spec import short_name

MANY = 6  # pruners, from which on they are shown together
BEFORE, WITH_TEXT, INSIDE = "image", "image and text", "inside of the LLM"
GROUPS = (BEFORE, WITH_TEXT, INSIDE)


def many(summary: Summary) -> bool:
    """Whether a summary holds so many pruners that they are shown together."""
    return len(pruners_of(summary)) >= MANY


def pruners_of(summary: Summary) -> list[str]:
    """The pruners of a summary, those that know the same together, the best first."""
    names = dict.fromkeys(r.setting.pruner for r in summary.settings if r.setting.pruner)

    def place(name: str) -> tuple[int, float]:
        found = [r.rec.total for r in summary.settings if r.setting.pruner == name]
        return GROUPS.index(knows(name)), -sum(share.accuracy for share in found)

    return sorted(names, key=place)


def knows(name: str) -> str:
    """What a pruner chooses by: BEFORE (the image alone), WITH_TEXT, or INSIDE (both, in the LLM's layers)."""
    made = _made(name, "0.9")
    if made is None:
        return BEFORE
    if made.inside:
        return INSIDE
    return WITH_TEXT if any(need.signal == "clip_text" for need in made.needs) else BEFORE


def overview(summary: Summary, kind: str) -> tuple[list[str], list[list[str]]]:
    """Header and rows: accuracy by pruner, budget and policy. A setting that was skipped has an empty cell."""
    at = list(columns(summary))
    header = ["pruner", "chooses by", *(f"{positions}\n{budget}" for budget, positions in at)]
    rows = [["unpruned", "", *[_cell(_share(summary, None, None, "preserved", kind))] * len(at)]]
    for name in pruners_of(summary):
        rows.append([short_name(name), knows(name), *(_cell(_share(summary, name, *each, kind)) for each in at)])
    return header, rows


def leaders(summary: Summary) -> list[str]:
    """Per policy and budget: who is best at boxes among those that know the same, and who is not told apart from it.

    Not told apart: the accuracy lies within the 95% Wilson interval of the best.
    """
    found: list[str] = []
    for budget, positions in columns(summary):
        parts = []
        for group in GROUPS:
            named = [(name, _share(summary, name, budget, positions, "rec")) for name in pruners_of(summary)]
            shares = sorted(
                ((n, s) for n, s in named if s is not None and knows(n) == group), key=lambda x: -x[1].accuracy
            )
            if not shares:
                continue
            (best, share), *rest = shares
            near = [short_name(n) for n, s in rest if s.accuracy >= share.interval[0]]
            beside = "" if not near else f" (not told apart: {', '.join(near)})" if len(near) < 6 else ""
            unclear = f" ({len(near)} others are not told apart)" if len(near) >= 6 else beside
            parts.append(f"{group} {short_name(best)} {_cell(share)}{unclear}")
        found.append(f"Best at {budget}, {positions}: {'; '.join(parts)}.")
    return found


def schedules(summary: Summary) -> list[str]:
    """What `keep` means to each pruner that acts inside of the LLM: how many tokens its layers see."""
    layers, whole = summary.about.get("llm_layers"), summary.result(Setting().id)
    if layers is None or whole is None or not whole.kept:
        return []
    pairs = dict.fromkeys((r.setting.pruner, r.setting.budget, r.setting.keep) for r in summary.settings)
    found = []
    for name, budget, keep in pairs:
        if name is None or keep is None or knows(name) != INSIDE or _skipped(summary, name, budget):
            continue
        made = make_pruner(name, keep)
        steps = schedule(made, layers, round(whole.kept))
        found.append(f"{name} at {budget}: " + ", ".join(f"{n} from layer {layer} on" for layer, n in steps))
    heading = f"Inside of the LLM ({layers} layers) keep is the average over the layers, so of {whole.kept:g} tokens"
    return [f"{heading} there are left: {'; '.join(found)}."] if found else []


def schedule(pruner: Pruner, n_layers: int, tokens: int) -> list[tuple[int, int]]:
    """(layer, how many of the tokens it and the next ones see), one entry per stage; layers before see all.

    Raises GroundPruneError where the pruner cannot reach its budget in an LLM of so many layers.
    """
    return [(stage.layer or 0, stage.budget.count(tokens)) for stage in pruner.stages(n_layers)]


def skipped(summary: Summary) -> list[str]:
    """One sentence for each reason: which pruners and budgets were left out."""
    of: dict[str, dict[str, None]] = {}
    for result in summary.settings:
        why = summary.skipped.get(result.setting.id)
        if why is not None:
            of.setdefault(why, {})[f"{short_name(result.setting.pruner or '')} {result.setting.budget}"] = None
    return [f"Skipped {', '.join(which)}: {why}." for why, which in of.items()]


def columns(summary: Summary) -> Iterator[tuple[str, str]]:
    """(budget, policy) of all that was pruned, policy by policy."""
    pruned = [r.setting for r in summary.settings if r.setting.pruner]
    budgets = dict.fromkeys(s.budget or "" for s in pruned)
    for positions in dict.fromkeys(s.positions for s in pruned):
        yield from ((b, positions) for b in budgets)


def _share(summary: Summary, pruner: str | None, budget: str | None, positions: str, kind: str) -> Share | None:
    for result in summary.settings:
        setting, share = result.setting, getattr(result, kind).total
        if (setting.pruner, setting.budget, setting.positions) == (pruner, budget, positions) and share.n:
            return share
    return None


def _cell(share: Share | None) -> str:
    return "" if share is None else f"{100 * share.accuracy:.1f}"


def _skipped(summary: Summary, pruner: str | None, budget: str | None) -> bool:
    ids = [r.setting.id for r in summary.settings if (r.setting.pruner, r.setting.budget) == (pruner, budget)]
    return all(id in summary.skipped for id in ids)


def _made(name: str, keep: str) -> Pruner | None:
    """None for a pruner of one's own: a report does not run the code of the file that it names."""
    try:
        known = Spec.parse(name).pruner in pruner_names()
        return make_pruner(name, keep) if known else None
    except GroundPruneError:
        return None
