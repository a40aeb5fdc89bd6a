import pytest

from groundprune.cli import main


@pytest.fixture
def said(capsys):
    """Run a command line; returns its exit code and what it wrote to stdout, and to stderr."""

    def run(*arguments):
        code = main([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return run
