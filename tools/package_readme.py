"""README as the package index shows it: a hook of hatchling, which cannot import what it builds.

Links to files of the repository lead to it where `[project.urls]` names a Repository; where it names none they are
words, and the figure is what it says, so that no link is dead.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

_LINK = re.compile(r"(?<!!)\[([^\]]*)\]\((?!\w+:)([^)]*)\)")
_PICTURE = re.compile(r"<picture>.*?<img src=\"([^\"]*)\" alt=\"([^\"]*)\"[^>]*>\s*</picture>", re.DOTALL)


def for_index(readme: str, repository: str | None) -> str:
    """README without relative links. repository: its address, or None."""
    if repository is None:
        return _LINK.sub(r"\1", _PICTURE.sub(r"\2", readme))
    root = repository.rstrip("/")
    shown = _PICTURE.sub(rf'<img src="{root}/raw/main/\1" alt="\2" width="880">', readme)
    return _LINK.sub(rf"[\1]({root}/blob/main/\2)", shown)


class PackageReadme(MetadataHookInterface):
    """What hatchling calls."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Set the package's readme."""
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        repository = metadata.get("urls", {}).get("Repository")
        metadata["readme"] = {"content-type": "text/markdown", "text": for_index(text, repository)}
