"""Where checkpoints are: embedded, in a folder, in the Hub's cache or on the Hub. Needs no torch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from groundprune import pocket, smol
from groundprune.errors import GroundPruneError
from groundprune.probes.patching import replaced

POCKET = "pocket"
CONFIGS = ("config.json", "adapter_config.json")  # one of which every checkpoint has
PROBE = 5.0  # seconds until a Hub that does not answer counts as out of reach
OURS = {POCKET: pocket.checkpoint_path, smol.NAME: smol.checkpoint_path}


def source_of(source: str | Path) -> str | Path:
    """What `from_pretrained` takes: the folder of a model of ours for its name, anything else as it is.

    Raises GroundPruneError for "smol" where it was not put together.
    """
    folder = OURS.get(str(source))
    return source if folder is None else folder()


@contextlib.contextmanager
def asking_once(source: str | Path, local_files_only: bool = False, **_: Any) -> Iterator[None]:
    """While active, a Hub that is out of reach is not asked again and again: its cache has the files, or nothing has.

    source: a checkpoint, see `gp.load`; of a folder nothing is asked at all, nor with `local_files_only`.
    """
    if Path(source_of(source)).is_dir() or (not local_files_only and _reachable()):
        yield
        return
    from huggingface_hub import constants

    with replaced(constants, "HF_HUB_OFFLINE", True):
        yield


def refuse_unreachable(
    source: str | Path,
    cache_dir: str | Path | None = None,
    revision: str | None = None,
    local_files_only: bool = False,
    **_: Any,
) -> None:
    """Raises GroundPruneError where a checkpoint is no folder, its config is not cached, and the Hub out of reach."""
    from huggingface_hub import try_to_load_from_cache

    if Path(source_of(source)).is_dir():
        return
    try:
        cached = [try_to_load_from_cache(str(source), name, cache_dir, revision) for name in CONFIGS]
    except ValueError:  # no name that the Hub allows
        cached = []
    if any(isinstance(path, str) for path in cached):
        return
    if local_files_only:
        raise GroundPruneError(f"no checkpoint at {str(source)!r}: no such folder, and not in the cache")
    if not _reachable():
        raise GroundPruneError(f"no checkpoint at {str(source)!r}: no such folder, and the Hub is out of reach")


def _reachable() -> bool:
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=PROBE)
    except Exception:  # which kinds there are depends on the client's own client
        return False
    return True
