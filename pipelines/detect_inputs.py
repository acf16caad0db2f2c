"""What `humansd detect` reads: image files, folders, globs, Parquet files, datasets; one image at a time."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow.parquet as pq

from pipelines import dataset, shards
from pipelines.config import UserError
from pipelines.store import Store

SUFFIXES: Final = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
"""Image files of a folder; what is named alone or by a glob may be called anything."""
IMAGE_COLUMNS: Final = ("image", "jpg", "png", "webp", "bytes")
NAME_COLUMNS: Final = ("key", "__key__", "file_name", "path")


@dataclass(frozen=True, slots=True)
class Source:
    """An image to look at: a file, or a row of a Parquet file (of a dataset where `out` is one)."""

    file: str
    row: int | None = None
    out: str | None = None


def find_sources(inputs: Sequence[str]) -> list[Source]:
    """Return every image of the inputs, each once, folders and globs sorted by name.

    Raises UserError for an input that is not there, has no images, or is a Parquet file without a column of them.
    """
    found: list[Source] = []
    for given in inputs:
        here = list(_sources(given))
        if not here:
            raise UserError(f"{given}: no images in it")
        found += here
    return list(dict.fromkeys(found))


def _sources(given: str) -> Iterator[Source]:
    path = Path(given)
    if "://" in given or (path / dataset.DATASET).is_file():
        store = Store(given)
        dataset.read_manifest(store)
        for done in shards.read_markers(store):
            name = shards.table_name("shards", done.shard)
            yield from (Source(name, row, given) for row in range(done.files["shards"].rows))
    elif path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
        for file in files:
            if file.suffix.lower() in SUFFIXES:
                yield Source(str(file))
            elif file.suffix.lower() == ".parquet":
                yield from _rows(file)
    elif path.is_file():
        yield from _rows(path) if path.suffix.lower() == ".parquet" else [Source(given)]
    elif glob.has_magic(given):
        for name in sorted(glob.glob(given, recursive=True)):  # noqa: PTH207  (Path.glob takes no absolute patterns)
            if Path(name).is_file():
                yield from _sources(name)
    else:
        raise UserError(f"{given}: no such file, folder or dataset")


def _rows(file: Path) -> Iterator[Source]:
    try:
        rows: int = pq.ParquetFile(file).metadata.num_rows
        names = pq.ParquetFile(file).schema_arrow.names
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: not readable as Parquet: {str(error).splitlines()[0]}") from None
    if not set(names) & set(IMAGE_COLUMNS):
        raise UserError(f"{file}: has no column of images ({', '.join(IMAGE_COLUMNS)})")
    return (Source(str(file), row) for row in range(rows))


def read_sources(sources: Sequence[Source]) -> Iterator[tuple[str, bytes | None]]:
    """Yield each source's name and bytes, in order; None where a row has no image or a file cannot be read.

    A file is named by its path; a row by its key or file name, else as `file:row`.
    """
    reader: _Rows | None = None
    for source in sources:
        if source.row is None:
            yield source.file, _read(source.file)
            continue
        if reader is None or reader.where != (source.out, source.file):
            reader = _Rows(source.out, source.file)
        yield reader.read(source.row)


def _read(file: str) -> bytes | None:
    try:
        return Path(file).read_bytes()
    except OSError:
        return None


class _Rows:
    """A Parquet file, of which one row group is held at a time, or a dataset's shard."""

    def __init__(self, out: str | None, file: str) -> None:
        self.where = (out, file)
        self._file: pq.ParquetFile | None = None
        self._first = 0
        self._rows: list[dict[str, Any]] = []
        if out is not None:
            with Store(out).open_parquet(file, ["key", "image"]) as handle:
                self._rows = shards.read_parquet(handle, ["key", "image"]).to_pylist()
            names = ["key", "image"]
        else:
            self._file = pq.ParquetFile(file)
            names = self._file.schema_arrow.names
        self._image = next(name for name in IMAGE_COLUMNS if name in names)
        self._name = next((name for name in NAME_COLUMNS if name in names), None)

    def read(self, row: int) -> tuple[str, bytes | None]:
        """Return a row's name and image."""
        if not self._first <= row < self._first + len(self._rows):
            self._load(row)
        found = self._rows[row - self._first]
        image = found[self._image]
        path = image.get("path") if isinstance(image, dict) else None
        data = image.get("bytes") if isinstance(image, dict) else image
        name = (found[self._name] if self._name else None) or path or f"{self.where[1]}:{row}"
        return str(name), data if isinstance(data, bytes) else None

    def _load(self, row: int) -> None:
        """Read the row group that a row is in."""
        assert self._file is not None
        columns = [self._image] + ([self._name] if self._name else [])
        first = 0
        for group in range(self._file.num_row_groups):
            rows = self._file.metadata.row_group(group).num_rows
            if first <= row < first + rows:
                table = self._file.read_row_group(group, columns=columns, use_threads=False)
                self._first, self._rows = first, table.to_pylist()
            first += rows
