"""`python -m tools.pocket_training --seed 0 --processes 2`"""

import argparse
from pathlib import Path

from . import train


def main() -> None:
    """Train as the command line says."""
    parser = argparse.ArgumentParser(prog="tools.pocket_training")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, help="where checkpoints go; default: the user's cache")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--out", type=Path, help="the folder to export to; default: inside --work")
    parser.add_argument("--tower-from", type=Path, help="tower.pt of another run, in place of a new tower")
    parser.add_argument("--quick", action="store_true", help="a run of seconds that learns nothing")
    arguments = parser.parse_args()
    print(f"exported to {train(**vars(arguments))}")


if __name__ == "__main__":
    main()
