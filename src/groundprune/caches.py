"""Where what is made once on a machine is kept: the user's cache, never the package or a checkout."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder(*parts: str) -> Path:
    """$XDG_CACHE_HOME/groundprune, or ~/.cache/groundprune, and `parts` below it; it need not be there."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache.joinpath("groundprune", *parts)
