"""A picture in the terminal itself, where the terminal is known to show them: kitty's and iTerm2's protocols.

Which one is known from environment variables alone: a terminal that is asked might not answer. Nothing is sent to
what is no terminal, and nothing through tmux or screen, which swallow such sequences.
Protocols: sw.kovidgoyal.net/kitty/graphics-protocol, iterm2.com/documentation-images.html.
"""

from __future__ import annotations

import base64
import contextlib
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

_ITERM = ("iTerm.app", "WezTerm", "mintty", "vscode")  # of TERM_PROGRAM
_KITTY = ("xterm-kitty", "xterm-ghostty")  # of TERM
_CHUNK = 4096  # characters of a part that kitty takes
_COLUMNS = 40  # of the terminal, for the picture
_PIXELS = 800  # of its longer side: a photograph would be megabytes of characters


def protocol(environment: Mapping[str, str]) -> str | None:
    """ "kitty", "iterm", or None where the terminal is not known to show pictures."""
    term = environment.get("TERM", "")
    if environment.get("TMUX") or term.startswith(("tmux", "screen")) or term == "dumb":
        return None
    if environment.get("KITTY_WINDOW_ID") or term in _KITTY:
        return "kitty"
    return "iterm" if environment.get("TERM_PROGRAM") in _ITERM else None


def escape(png: bytes, kind: str) -> str:
    """What makes a terminal draw a picture. kind: what `protocol` gave."""
    data = base64.b64encode(png).decode("ascii")
    if kind == "iterm":
        return f"\x1b]1337;File=inline=1;size={len(png)};width={_COLUMNS}:{data}\x07"
    parts = [data[start : start + _CHUNK] for start in range(0, len(data), _CHUNK)]
    keys = [f"a=T,f=100,c={_COLUMNS},q=2,m={int(len(parts) > 1)}"]
    keys += [f"m={int(index < len(parts) - 1)}" for index in range(1, len(parts))]
    return "".join(f"\x1b_G{key};{part}\x1b\\" for key, part in zip(keys, parts, strict=True))


def show(path: Path, stream: TextIO) -> None:
    """Draw a picture on `stream` if it is a terminal that shows them; else, and where it cannot be read, nothing."""
    kind = protocol(os.environ) if stream.isatty() else None
    if kind is None:
        return
    from PIL import Image, UnidentifiedImageError

    with contextlib.suppress(ValueError, UnidentifiedImageError, FileNotFoundError):
        buffer = io.BytesIO()
        with Image.open(path) as picture:
            small = picture.convert("RGB")
        small.thumbnail((_PIXELS, _PIXELS))
        small.save(buffer, "PNG")
        stream.write(escape(buffer.getvalue(), kind) + "\n")
        stream.flush()
