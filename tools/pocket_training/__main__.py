"""Train the pocket model from nothing, or go on with a run that was interrupted.

python -m tools.pocket_training --seed 1 --processes 2 --work runs/seed1 --out runs/seed1/checkpoint
groundprune ground scene.png "the star" --model runs/seed1/checkpoint
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from tools.command_line import Parser, answered

from . import train

NAME = "tools.pocket_training"


def _parser() -> Parser:
    parser = Parser(NAME, __doc__)
    parser.add_argument("--seed", type=int, default=0, help="of the weights and of the scenes")
    parser.add_argument("--work", type=Path, help="where checkpoints go; default: the user's cache")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--processes", type=int, default=1, help="on a CPU: how many train together")
    parser.add_argument("--out", type=Path, help="the folder to export to; default: inside of --work")
    parser.add_argument("--tower-from", type=Path, help="tower.pt of another run, in place of a new tower")
    parser.add_argument("--quick", action="store_true", help="a run of seconds that learns nothing")
    return parser


def main(words: Sequence[str] | None = None) -> int:
    """Train as a command line says, by default the process's own; returns the exit code."""
    return answered(_parser(), words, lambda **arguments: print(f"exported to {train(**arguments)}"))


if __name__ == "__main__":
    sys.exit(main())
