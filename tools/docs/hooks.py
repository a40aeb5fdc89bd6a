"""What mkdocs adds to the pages of docs/: the drawing of positions, whose one source is in the package."""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

POSITION_MAP = Path(__file__).parents[2] / "src" / "groundprune" / "report" / "templates" / "position_map.js"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """mkdocs' event: all files of the site are known, none is written."""
    files.append(File.generated(config, POSITION_MAP.name, abs_src_path=str(POSITION_MAP)))
    return files
