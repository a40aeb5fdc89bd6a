"""Tables with images in them, read row by row: parquet files, and the Arrow folders of `datasets.save_to_disk`."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from groundprune.data.pictures import inside
from groundprune.errors import GroundPruneError, Unservable, first_line

Read = Callable[[list[str]], Any]  # column names -> a pyarrow.Table of some rows


class Table:
    """columns: names. len(): rows. Images are read when asked for, and those of one part of the file at a time."""

    def __init__(self, parts: list[tuple[int, Read]], columns: list[str]):
        self.columns, self._parts = columns, parts
        self._images = lru_cache(maxsize=1)(lambda part: self._parts[part][1](["image"])["image"])

    def __len__(self) -> int:
        return sum(count for count, _ in self._parts)

    def rows(self) -> list[dict[str, Any]]:
        """Everything but the images."""
        light = [name for name in self.columns if name != "image"]
        return [row for _, read in self._parts for row in read(light).to_pylist()]

    def image(self, number: int) -> Any:
        """As stored: {"bytes", "path"} or a path."""
        for part, (count, _) in enumerate(self._parts):
            if number < count:
                return self._images(part)[number].as_py()
            number -= count
        raise IndexError(number)


def open_table(source: str, split: str) -> Table:
    """source: a .parquet file, a folder of SPLIT-*.parquet or of `save_to_disk`, or a Hub id of parquet files.

    Raises Unservable without pyarrow, and GroundPruneError for what cannot be read and for a missing split.
    """
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise Unservable(f"{source} needs the extra: pip install 'groundprune[eval]' ({error})") from error
    try:
        path = Path(source) if Path(source).exists() else _download(source, split)
        if path.is_file():
            return _parquet([path])
        if (path / "dataset_dict.json").exists():
            splits = json.loads((path / "dataset_dict.json").read_text(encoding="utf-8"))["splits"]
            if split not in splits:
                raise GroundPruneError(f"{source} has no split {split!r} (it has: {', '.join(splits)})")
            path = inside(path, split)
        if (path / "state.json").exists():
            state = json.loads((path / "state.json").read_text(encoding="utf-8"))
            return _arrow([inside(path, entry["filename"]) for entry in state["_data_files"]])
        files = sorted(path.glob(f"**/{split}-*.parquet"))
        if not files:
            raise GroundPruneError(f"{source} holds neither {split}-*.parquet nor what `save_to_disk` writes")
        return _parquet(files)
    except GroundPruneError:
        raise
    except Exception as error:  # of files, formats and the net
        raise GroundPruneError(f"cannot read the data set {source!r}: {first_line(error)}") from error


def _download(source: str, split: str) -> Path:
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(source, repo_type="dataset", allow_patterns=[f"*{split}-*.parquet"]))


def _parquet(files: list[Path]) -> Table:
    from pyarrow.parquet import ParquetFile

    def reader(file: ParquetFile, group: int) -> Read:
        return lambda columns: file.read_row_group(group, columns=columns)

    opened = [ParquetFile(path) for path in files]
    parts = [
        (file.metadata.row_group(group).num_rows, reader(file, group))
        for file in opened
        for group in range(file.num_row_groups)
    ]
    return Table(parts, opened[0].schema_arrow.names)


def _arrow(files: list[Path]) -> Table:
    import pyarrow

    # Mapped into memory: nothing is read before it is used.
    tables = [pyarrow.ipc.open_stream(pyarrow.memory_map(str(path))).read_all() for path in files]
    return Table([(table.num_rows, table.select) for table in tables], tables[0].column_names)
