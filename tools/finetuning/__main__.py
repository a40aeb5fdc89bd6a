"""Fine-tune the pocket under pruning, and measure boxes before and after; minutes of one core per training.

python -m tools.finetuning --out runs/finetuning          # three seeds of each arm
python -m tools.finetuning --quick --out runs/quick       # a few steps that learn nothing
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from groundprune.errors import GroundPruneError
from tools.command_line import Parser, answered

from .arms import Plan
from .running import RESULTS, finetunings

NAME = "tools.finetuning"
QUICK = Plan(steps=2, batch=2, turns=2, warmup=1, asked=4)


def _parser() -> Parser:
    parser = Parser(NAME, __doc__)
    parser.add_argument("--seeds", type=int, default=3, help="how many trainings of each arm")
    parser.add_argument("--out", type=Path, default=Path("runs") / "finetuning", help="where results.json goes")
    parser.add_argument("--quick", action="store_true", help="learn nothing, ask little: to see that all runs")
    return parser


def run(seeds: int, out: Path, quick: bool = False) -> None:
    """Raises GroundPruneError for arguments that make no sense."""
    if seeds < 1:
        raise GroundPruneError(f"--seeds must be at least 1 (got {seeds})")
    finetunings(seeds, QUICK if quick else Plan(), out)
    print(f"results: {out / RESULTS}")


def main(words: Sequence[str] | None = None) -> int:
    """As a command line says, by default the process's own; returns the exit code."""
    return answered(_parser(), words, run)


if __name__ == "__main__":
    sys.exit(main())
