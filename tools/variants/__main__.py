"""Train the small models that the studies of training compare, and ask the studies of them.

python -m tools.variants sources --processes 2   # trains what is missing, then answers
python -m tools.variants all --seeds 1 --quick   # a run of minutes that learns nothing
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from groundprune.caches import cache_folder
from groundprune.errors import GroundPruneError
from groundprune.studies.running import PAGE, Asked, run_study
from groundprune.studies.study import study_of
from tools.command_line import Parser, answered

from .catalogue import SEEDS, STUDIES, wanted
from .loading import load_variant
from .training import jobs, minutes, train

NAME = "tools.variants"
ALL = "all"


def _parser() -> Parser:
    parser = Parser(NAME, __doc__)
    parser.add_argument("studies", metavar="study", nargs="+", help=f"of {', '.join(STUDIES)}; or {ALL}")
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="how many trainings of each variant")
    parser.add_argument("--processes", type=int, default=1, help="trainings at a time, one thread each")
    parser.add_argument("--device", default="cpu", help="cpu or cuda, where they are trained")
    parser.add_argument("--work", type=Path, default=cache_folder("variants"), help="where checkpoints go")
    parser.add_argument("--out", type=Path, default=Path("runs") / "studies", help="as of groundprune study")
    parser.add_argument("--quick", action="store_true", help="learn nothing, ask little: to see that all runs")
    return parser


def run(
    studies: Sequence[str], seeds: int, processes: int, device: str, work: Path, out: Path, quick: bool = False
) -> None:
    """Train what is missing, then run the studies. Raises GroundPruneError for arguments that make no sense."""
    if not 1 <= seeds <= len(SEEDS):
        raise GroundPruneError(f"--seeds must be 1 to {len(SEEDS)} (got {seeds})")
    if processes < 1:
        raise GroundPruneError(f"--processes must be a whole number of at least 1 (got {processes})")
    names = list(STUDIES) if ALL in studies else list(studies)
    every = jobs(wanted(names), SEEDS[:seeds], work / "quick" if quick else work, quick, device)
    missing = [job for job in every if not job.done]
    told = "a few steps each" if quick else f"about {minutes(missing)} minutes of one processor"
    print(f"{len(missing)} of {len(every)} trainings to do, {told}; checkpoints: {work}", flush=True)
    train(every, processes)
    by_name = {f"{job.variant}-s{job.seed}": job for job in every if not job.tower}
    for name in names:
        models = {called: called for called, job in by_name.items() if job.variant in STUDIES[name]}
        asked = Asked(models, quick=quick, opener=lambda called: load_variant(by_name[called]))
        findings = run_study(study_of(name), asked, out)
        print(f"{name}: {findings.answer}\n  page   {out / name / PAGE}", flush=True)


def main(words: Sequence[str] | None = None) -> int:
    """As a command line says, by default the process's own; returns the exit code."""
    return answered(_parser(), words, run)


if __name__ == "__main__":
    sys.exit(main())
