"""Files that are there as a whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file beside `path`, to be written inside of the context: then it takes the place of `path`, or is gone.

    What is no regular file (a device, a pipe) is written itself. Raises OSError where the disk refuses.
    """
    path = path.resolve()  # a link stays a link
    if path.exists() and not path.is_file():
        yield path
        return
    if path.exists() and not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    draft = path.with_name(f".groundprune-{secrets.token_hex(4)}{path.suffix}")
    try:
        yield draft
        if path.exists():
            shutil.copymode(path, draft)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
