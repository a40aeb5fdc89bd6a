"""What the commands of this folder share: mistakes in one line, an interruption that says how to go on."""

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from groundprune.cli.console import quieten
from groundprune.errors import GroundPruneError


class Parser(argparse.ArgumentParser):
    """Of the module `name`; mistakes are raised, not printed with the usage."""

    def __init__(self, name: str, description: str | None):
        self.name = name
        text = argparse.RawDescriptionHelpFormatter
        super().__init__(prog=f"python -m {name}", description=description, formatter_class=text, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        raise GroundPruneError(f"{message} (see python -m {self.name} --help)")


def answered(parser: Parser, words: Sequence[str] | None, work: Callable[..., None]) -> int:
    """Do the work that a command line asks for, `words` or the process's own; returns the exit code."""
    try:
        arguments = parser.parse_args(words)
        quieten()
        work(**vars(arguments))
    except GroundPruneError as error:
        print(f"{parser.name}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{parser.name}: interrupted; the same command goes on", file=sys.stderr)
        return 130
    return 0
