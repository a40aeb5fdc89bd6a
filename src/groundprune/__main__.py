"""The program: `groundprune`, and `python -m groundprune`. Nothing is imported before Ctrl-C is taken care of."""

import sys


def run() -> int:
    """The command line in `sys.argv`; returns the exit code."""
    try:
        from groundprune.cli import main

        return main()
    except KeyboardInterrupt:  # while importing; main takes care of its own
        print("groundprune: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":  # processes that training starts import this file too
    sys.exit(run())
