"""Train the small models that the studies of training compare, and ask the studies of them.

python -m tools.variants sources --processes 2   # trains what is missing, then answers
python -m tools.variants all --seeds 1 --quick   # a run of minutes that learns nothing
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from groundprune.cli.console import quieten
from groundprune.errors import GroundPruneError
from groundprune.studies.running import Asked, run_study
from groundprune.studies.study import study_of

from .catalogue import SEEDS, STUDIES, VARIANTS, wanted
from .loading import load_variant
from .training import Job, jobs, minutes, train

NAME = "tools.variants"
ALL = "all"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise GroundPruneError(f"{message} (see python -m {NAME} --help)")


def _parser() -> argparse.ArgumentParser:
    text = argparse.RawDescriptionHelpFormatter
    parser = _Parser(prog=f"python -m {NAME}", description=__doc__, formatter_class=text, allow_abbrev=False)
    parser.add_argument("study", nargs="+", help=f"of {', '.join(STUDIES)}; or {ALL}")
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="how many trainings of each variant")
    parser.add_argument("--processes", type=int, default=1, help="trainings at a time, one thread each")
    parser.add_argument("--work", type=Path, default=default_work(), help="where checkpoints go")
    parser.add_argument("--out", type=Path, default=Path("runs") / "studies", help="as of groundprune study")
    parser.add_argument("--quick", action="store_true", help="learn nothing, ask little: to see that all runs")
    return parser


def default_work() -> Path:
    """The user's cache, never the repository."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "groundprune" / "variants"


def run(studies: Sequence[str], seeds: int, processes: int, work: Path, out: Path, quick: bool = False) -> None:
    """Train what is missing, then run the studies. Raises GroundPruneError for arguments that make no sense."""
    if not 1 <= seeds <= len(SEEDS):
        raise GroundPruneError(f"--seeds must be 1 to {len(SEEDS)} (got {seeds})")
    if processes < 1:
        raise GroundPruneError(f"--processes must be a whole number of at least 1 (got {processes})")
    names = list(STUDIES) if ALL in studies else list(studies)
    every = jobs(wanted(names), SEEDS[:seeds], work / "quick" if quick else work, quick)
    missing = [job for job in every if not job.done]
    told = "a few steps each" if quick else f"about {minutes(missing)} minutes of one processor"
    print(f"{len(missing)} of {len(every)} trainings to do, {told}; checkpoints: {work}", flush=True)
    train(every, processes)
    by_name = {_called(job): job for job in every if not job.tower}
    for name in names:
        models = {called: called for called, job in by_name.items() if job.variant in STUDIES[name]}
        asked = Asked(models, quick=quick, opener=lambda called: load_variant(by_name[called]))
        findings = run_study(study_of(name), asked, out)
        print(f"{name}: {findings.answer}\n  page   {out / name / 'page.md'}", flush=True)


def _called(job: Job) -> str:
    return f"{VARIANTS[job.variant].name}-s{job.seed}"


def main(words: Sequence[str] | None = None) -> int:
    """As a command line says, by default the process's own; returns the exit code."""
    try:
        arguments = vars(_parser().parse_args(words))
        quieten()
        run(arguments.pop("study"), **arguments)
    except GroundPruneError as error:
        print(f"{NAME}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{NAME}: interrupted; the same command goes on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
