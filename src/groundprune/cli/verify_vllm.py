"""`verify --engine vllm`: does the installed vLLM compute what pruning promises? And the same in front of `serve`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from groundprune.cli.console import complain, print_json, progress, quieten
from groundprune.cli.options import comma_separated
from groundprune.errors import GroundPruneError

if TYPE_CHECKING:
    from groundprune.integrations.vllm.proof import Outcome

FAILED, INCONCLUSIVE = 1, 3


def verify_vllm(
    model: str | None, family: str | None, pruner: str, dtype: str, short: bool, compiled: bool, as_json: bool
) -> None:
    """Prove families on the installed vLLM, print what was found, and remember which ones passed.

    model: whose family is proven where none is named. pruner: "all" stands for those of the proof.
    """
    from groundprune.integrations.vllm.proof import PRUNERS, short_form
    from groundprune.integrations.vllm.settings import ARCHITECTURES
    from groundprune.integrations.vllm.versions import check_version

    check_version()
    if family is not None and family != "all":
        families = comma_separated(family)
    elif model is not None:
        families = [_family_of(model)]
    else:
        families = short_form(list(ARCHITECTURES)) if short else list(ARCHITECTURES)
    pruners = list(PRUNERS) if pruner == "all" else comma_separated(pruner)
    outcomes = _run(families, pruners, short, dtype, compiled)
    if as_json:
        print_json([{**asdict(outcome), "dtype": dtype, "compiled": compiled} for outcome in outcomes])
    else:
        _print(outcomes, dtype, compiled)
    verdicts = {outcome.verdict for outcome in outcomes}
    if not verdicts:
        raise typer.Exit(complain("nothing was proven: every pruner was skipped", INCONCLUSIVE))
    if verdicts - {"ok"}:
        raise typer.Exit(FAILED if "FAILED" in verdicts else INCONCLUSIVE)


def prove_before_serving(model: str, ask: bool) -> None:
    """Where the tests have not seen this vLLM and no proof is stored: the short form, of the model's family.

    ask: else whatever is installed runs.

    Raises GroundPruneError where it does not pass, with the family, the case and the difference.
    """
    from groundprune.integrations.vllm.proof import PRUNERS
    from groundprune.integrations.vllm.stored_proofs import UNPROVEN, may_be_proven
    from groundprune.integrations.vllm.versions import SUPPORTED, check_version, is_tested

    version = check_version()
    if is_tested(version):
        return
    family = _family_of(model)
    if ask:
        if may_be_proven(family):
            return  # the engine looks at its own runner's, and says what it relies on
        seen = f"vLLM {version} is none that the tests ran on ({', '.join(SUPPORTED)})"
        typer.echo(
            f"groundprune: {seen}: {family} is proven first, which takes a minute; --no-verify skips it", err=True
        )
        outcomes = _run([family], PRUNERS, short=True, dtype="float32", compiled=False)
        if not outcomes:
            raise GroundPruneError(
                f"vLLM {version} is not proven: {family} is served with none of the proof's pruners"
            )
        for outcome in sorted(outcomes, key=lambda outcome: outcome.verdict != "FAILED"):
            if outcome.verdict != "ok":
                raise GroundPruneError(f"vLLM {version} is not proven: {outcome.said}")
    os.environ[UNPROVEN] = "1"  # nothing else has to be, also where no proof can be stored


def _family_of(model: str) -> str:
    from groundprune.checkpoints.load import read_config
    from groundprune.families import family_of

    return family_of(read_config(model)).name


def _run(families: Sequence[str], pruners: Sequence[str], short: bool, dtype: str, compiled: bool) -> list[Outcome]:
    """What was found, stored in fp32 by family: that all passed, or that it no longer does."""
    from groundprune.integrations.vllm.proof import PRUNERS, prove
    from groundprune.integrations.vllm.proof_engine import OtherProcess

    outcomes: list[Outcome] = []
    quieten()
    progress(f"proving {', '.join(families)} in vLLM")
    with OtherProcess(compiled) as speaker:
        for outcome in prove(speaker, families, pruners, short, dtype, compiled, complain):
            outcomes.append(outcome)
            progress(f"{outcome.family}, {outcome.pruner}, {outcome.case}: {outcome.verdict}")
    for family in dict.fromkeys(outcome.family for outcome in outcomes):
        mine = [outcome for outcome in outcomes if outcome.family == family]
        places = [outcome.installation for outcome in mine if outcome.installation is not None]
        place, passed = places[-1] if places else None, all(outcome.verdict == "ok" for outcome in mine)
        if place is None or (passed and (dtype != "float32" or PRUNERS[-1] not in pruners)):
            continue
        try:
            place.remember(family) if passed else place.forget(family)
        except OSError as error:
            complain(f"the proof of {family} cannot be stored ({error.strerror or error})")
    return outcomes


def _print(outcomes: Sequence[Outcome], dtype: str, compiled: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    from groundprune.integrations.vllm.proof import CONTROL

    table = Table("family", "pruner", "case", "difference", "tolerance", "tokens", "", box=None, pad_edge=False)
    for each in outcomes:
        at_least = each.case == CONTROL
        table.add_row(
            each.family,
            each.pruner,
            each.case,
            "" if each.difference is None else f"{each.difference:.1e}",
            f"{'> ' if at_least else ''}{each.tolerance:.0e}",
            "" if each.same_tokens is None or at_least else "same" if each.same_tokens else "DIFFERENT",
            each.verdict,
        )
    Console(width=None if sys.stdout.isatty() else 200).print(table)
    place = next((each.installation for each in outcomes if each.installation is not None), None)
    if place is not None:
        how = f"model runner {place.runner}, {dtype}, {'compiled' if compiled else 'eager'}"
        typer.echo(f"\nvLLM {place.vllm}, torch {place.torch}, {place.device}, {how}")
    typer.echo(
        "difference: of vLLM's log-probabilities from transformers', the largest over the vocabulary and all steps, "
        "relative to the largest of them.\nrenumbered: the same of an engine that numbers the kept tokens anew: "
        "far more than the tolerance, or nothing is proven."
    )
    for each in outcomes:
        if each.verdict != "ok":
            typer.echo(f"{each.verdict}: {each.said}")
