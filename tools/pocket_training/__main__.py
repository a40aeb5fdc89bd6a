"""Train the pocket model from nothing, or go on with a run that was interrupted.

python -m tools.pocket_training --seed 1 --processes 2 --work runs/seed1 --out runs/seed1/checkpoint
groundprune ground scene.png "the star" --model runs/seed1/checkpoint
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from groundprune.cli.console import quieten
from groundprune.errors import GroundPruneError

from . import train

NAME = "tools.pocket_training"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise GroundPruneError(f"{message} (see python -m {NAME} --help)")


def _parser() -> argparse.ArgumentParser:
    text = argparse.RawDescriptionHelpFormatter
    parser = _Parser(prog=f"python -m {NAME}", description=__doc__, formatter_class=text, allow_abbrev=False)
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
    try:
        arguments = _parser().parse_args(words)
        quieten()
        print(f"exported to {train(**vars(arguments))}")
    except GroundPruneError as error:
        print(f"{NAME}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{NAME}: interrupted; the same command goes on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
