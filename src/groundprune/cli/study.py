"""`study`: the paper's experiments and open questions, one command each."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from groundprune.cli.console import announce, print_json, progress, quieten
from groundprune.cli.options import DeviceOption, DtypeOption, JsonOption, TextTowerOption
from groundprune.errors import GroundPruneError

if TYPE_CHECKING:
    from groundprune.studies.study import Findings

ALL, LIST, TABLE1 = "all", "list", "table1"


def study(
    name: Annotated[str, typer.Argument(help="A study, all, or list.")],
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="As in evaluate (default: pocket); of table1 names, or all.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option("--data", "-d", help="As in evaluate (default: the model's scenes); of table1 names, or all."),
    ] = None,
    data_root: Annotated[Path | None, typer.Option("--data-root", help="As in evaluate.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer samples and settings: a first look.")] = False,
    limit: Annotated[
        int | None, typer.Option("--limit", "-n", min=1, help="So many samples of each kind, not the study's own.")
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for results; the same call goes on where it stopped.")
    ] = Path("runs/studies"),
    seed: Annotated[int, typer.Option("--seed", min=0, help="Which scenes.")] = 0,
    batch_size: Annotated[int, typer.Option("--batch-size", "-b", help="Prompts that run together.")] = 64,
    text_tower: TextTowerOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = "auto",
    checkpoints: Annotated[
        Path | None, typer.Option("--checkpoints", "-c", help="table1: TOML file that says where each model is.")
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="table1: count what is ready and missing; run nothing.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Ask a question of the paper (GAP, arXiv 2506.21873): rows, one figure and a page with the answer.

    The pocket model is run in both of its trainings, where the package lies in a checkout that holds the second.
    Studies of what training decides are redrawn from stored runs; `python -m tools.variants` trains anew.

    [dim]groundprune study list[/]
    [dim]groundprune study all --quick[/]
    [dim]groundprune study sweep --model llava-hf/llava-1.5-7b-hf --data refcoco:val[/]
    [dim]groundprune study table1 --plan[/]
    """
    if name == TABLE1:
        from groundprune.cli.table1 import run_table1

        root = data_root or Path("data")
        run_table1(checkpoints, root, plan, model, data, limit, out, batch_size, device, dtype, as_json)
        return
    if plan or checkpoints is not None:
        raise GroundPruneError(f"--{'plan' if plan else 'checkpoints'} belongs to the study {TABLE1}")
    from groundprune.studies.study import studies, study_of

    if name == LIST:
        for each in studies().values():
            typer.echo(f"{each.name:14} {each.question}")
        typer.echo(f"{TABLE1:14} What do five models lose on RefCOCO and GQA? (needs checkpoints and data)")
        return
    chosen = list(studies().values()) if name == ALL else [study_of(name, (ALL, LIST, TABLE1))]
    given = [option for option, value in (("model", model), ("data", data), ("limit", limit)) if value is not None]
    if chosen[0].trained and name != ALL and given:
        raise GroundPruneError(
            f"the study {name} is of models that are trained for it, and takes no --{given[0]}: "
            f"`python -m tools.variants {name}` trains them and asks them"
        )
    model = model or "pocket"
    announce(model)
    quieten()
    from groundprune.data.sources import scenes_of
    from groundprune.studies.running import PAGE, Asked, models_of, redraw, run_study

    models = models_of(model)
    if not as_json and model == "pocket" and len(models) == 1 and not all(each.trained for each in chosen):
        typer.echo("the pocket's second training is not here (it lies in a checkout): one model is run", err=True)
    data = data or scenes_of(model)
    wanted = Asked(models, data, data_root, limit, quick, seed, device, dtype, batch_size, text_tower)
    found: dict[str, Findings] = {}
    failed: dict[str, str] = {}
    for each in chosen:
        progress(f"study {each.name}")
        try:
            found[each.name] = redraw(each, out) if each.trained else run_study(each, wanted, out)
        except GroundPruneError as error:
            if name != ALL:
                raise
            failed[each.name] = str(error)  # the others can still be run
            continue
        if not as_json:
            _show(each.name, found[each.name], out / each.name / PAGE)
    if as_json:
        print_json({study: findings.to_json() for study, findings in found.items()})
    if failed:
        raise GroundPruneError("; ".join(f"{study}: {why}" for study, why in failed.items()))


def _show(name: str, findings: Findings, page: Path) -> None:
    typer.echo(f"\n{name}: {findings.answer}")
    for claim in findings.claims:
        typer.echo(f"  {claim.verdict:20} {claim.text}: {claim.measured}")
    typer.echo(f"  page   {page}")
