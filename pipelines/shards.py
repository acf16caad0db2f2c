"""One shard on disk: three Parquet files (accepted, rejected, ledger) and the done marker that is written last.

A shard without its done marker does not exist. Nothing that differs between runs (times, hosts, run ids) is in a
Parquet file: it all goes into the marker.
"""

from __future__ import annotations

import datetime
import functools
import hashlib
import json
import platform
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any, BinaryIO, Final

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import record
from pipelines.store import Store
from pipelines.taken import Takedowns
from pipelines.work import Result, ShardResult, ShardTask

FOLDERS: Final = ("shards", "rejected", "ledger")
"""Where a shard's three tables lie, in the order in which they are committed."""

INFLIGHT: Final = ".run/inflight"
"""Breadcrumbs of the shards being made: which rows run, in which process."""

_VERSIONED: Final = ("torch", "diffusers", "transformers", "numpy", "pyarrow", "ray", "pillow")


@dataclass(frozen=True, slots=True)
class FileInfo:
    """What a done marker knows of one file: sha256 in hex, size in bytes, rows."""

    sha256: str
    bytes: int
    rows: int


@dataclass(frozen=True, slots=True)
class Done:
    """A shard's done marker.

    start, stop: the slots it holds. max_attempts: how often each could be tried. short: keys of slots not filled.
    follows: the sha256 of what it was made from, where that is another shard and may change.
    files: by folder name. seconds: worker wall-clock seconds by stage, `total` among them. finished: UTC, ISO 8601.
    """

    shard: int
    start: int
    stop: int
    max_attempts: int
    accepted: int
    rejected: int
    short: tuple[str, ...]
    files: Mapping[str, FileInfo]
    counts: Mapping[str, int]
    seconds: Mapping[str, float]
    identity: str
    data_version: int
    run: str
    host: str
    versions: Mapping[str, str]
    finished: str
    follows: str = ""


def table_name(folder: str, index: int) -> str:
    """`shards/00000012.parquet` for ("shards", 12); the folder "" is the dataset's own."""
    return f"{folder}/{index:08d}.parquet".removeprefix("/")


def done_name(index: int) -> str:
    """`done/00000012.json` for 12."""
    return f"done/{index:08d}.json"


class _HashedFile:
    """What Arrow writes to: an open file, and the sha256 and size of all that went into it."""

    closed = False

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()
        self.bytes = 0

    def write(self, data: bytes) -> None:
        self.sha256.update(data)
        self.bytes += len(data)
        self._file.write(data)

    def tell(self) -> int:
        return self.bytes

    def flush(self) -> None:
        """The store flushes and closes the file."""

    close = flush


def encode(table: pa.Table, identity_hash: str, file: BinaryIO) -> FileInfo:
    """Write a table to a file as Parquet, hashed on the way: row groups of 100 rows, zstd but for the image bytes.

    Those are compressed already.
    """
    leaves = _schema_leaves(table.schema.remove_metadata())
    table = record.with_file_metadata(table, identity_hash)
    plain = [leaf for leaf in leaves if not leaf.endswith("image.bytes")]
    hashed = _HashedFile(file)
    pq.write_table(
        table,
        hashed,
        row_group_size=record.ROW_GROUP_ROWS,
        compression={leaf: "zstd" if leaf in plain else "none" for leaf in leaves},
        use_dictionary=plain,
        write_statistics=plain,
    )
    return FileInfo(hashed.sha256.hexdigest(), hashed.bytes, table.num_rows)


def commit(store: Store, task: ShardTask, result: Result, identity_hash: str, run: str) -> Done:
    """Write a shard's files and then its done marker, without what was taken down; doing it twice is harmless.

    Raises ValueError where the result contradicts itself (a key twice), StorageError where OUT cannot be written.
    """
    if isinstance(result, ShardResult):
        result = Takedowns.read(store).apply(result, task.index)
    tables = result.tables()
    keys = next(iter(tables.values()))["key"].to_pylist()
    if len(set(keys)) < len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"shard {task.index} holds the key {twice} twice")
    files: dict[str, FileInfo] = {}

    def writer(folder: str) -> Callable[[BinaryIO], None]:
        def write(file: BinaryIO) -> None:
            files[folder] = encode(tables[folder], identity_hash, file)

        return write

    # An older shard that this one replaces stays valid until its files are swapped; a crash between two of the renames
    # leaves files that do not match their marker, which `read_back` finds: that shard is then made anew.
    store.write_all({table_name(folder, task.index): writer(folder) for folder in tables}, run)
    accepted, rejected = result.totals
    done = Done(
        shard=task.index,
        start=task.start,
        stop=task.stop,
        max_attempts=task.max_attempts if result.max_attempts is None else result.max_attempts,
        accepted=accepted,
        rejected=rejected,
        short=tuple(result.short),
        files=files,
        counts=result.counts,
        seconds=result.seconds,
        identity=identity_hash,
        data_version=record.DATA_VERSION,
        run=run,
        host=socket.gethostname(),
        versions=versions(),
        finished=now(),
        follows=result.follows,
    )
    store.write(done_name(task.index), json.dumps(asdict(done), indent=1).encode(), run)
    return done


def parse_done(data: bytes) -> Done:
    """A done marker from its JSON. Raises ValueError where it is none."""
    try:
        values: dict[str, Any] = json.loads(data)
        files = {folder: FileInfo(**info) for folder, info in values.pop("files").items()}
        if not files:
            raise ValueError("not a done marker: it names no files")
        return Done(**{**values, "short": tuple(values["short"])}, files=files)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a done marker: {error!r}") from None


def done_indices(store: Store, shards: range | None = None) -> list[int]:
    """Indices of the shards that are committed, ascending; only those in `shards` if given."""
    if shards is not None and len(shards) == 1:  # not worth a listing
        return [index for index in shards if store.exists(done_name(index))]
    found = (int(name[:8]) for name in store.names("done") if name[:8].isdigit() and name[8:] == ".json")
    return [index for index in found if shards is None or index in shards]


def read_markers(store: Store, shards: range | None = None) -> Iterator[Done]:
    """The done markers of a dataset (or of some of its shards), ascending; unreadable ones are left out."""
    for _, data in store.read_many(done_name(index) for index in done_indices(store, shards)):
        try:
            yield parse_done(data)
        except ValueError:
            continue


def read_table(store: Store, folder: str, index: int, columns: list[str] | None = None) -> pa.Table:
    """One of a shard's tables; reads only the columns asked for."""
    with store.open_parquet(table_name(folder, index), columns) as file:
        return read_parquet(file, columns)


def read_schema(store: Store, index: int) -> pa.Schema:
    """The columns and types of a table in the dataset's own folder, without metadata."""
    with store.open_parquet(table_name("", index), []) as file:
        return pq.ParquetFile(file).schema_arrow.remove_metadata()


def read_parquet(file: Any, columns: list[str] | None = None) -> pa.Table:
    """A table from a Python file or an Arrow buffer reader, in this thread.

    Arrow's own threads may let go of Python's file or bytes only while the interpreter ends, which aborts the process
    (measured: every third short process on a busy machine).
    """
    return pq.ParquetFile(file).read(columns=columns, use_threads=False)


def read_back(store: Store, done: Done) -> ShardResult | None:
    """A committed shard's rows, to be grown; None where its files do not match its done marker."""
    tables = []
    for folder in FOLDERS:
        try:
            data = store.read(table_name(folder, done.shard))
        except FileNotFoundError:
            return None
        if hashlib.sha256(data).hexdigest() != done.files[folder].sha256:
            return None
        tables.append(read_parquet(pa.BufferReader(data)))
    accepted, rejected, ledger = tables
    return ShardResult(
        accepted=record.table_to_samples(accepted),
        rejected=record.table_to_rejected(rejected),
        ledger=record.table_to_ledger(ledger),
        seconds=dict(done.seconds),
        counts=dict(done.counts),
        short=list(done.short),
    )


@functools.cache
def versions() -> Mapping[str, str]:
    """Versions of what decides bytes and speed, for done markers and failure reports."""
    found = {"python": platform.python_version()}
    for name in _VERSIONED:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def now() -> str:
    """UTC now, ISO 8601, in seconds."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


@functools.cache
def _schema_leaves(schema: pa.Schema) -> list[str]:
    return [leaf for field in schema for leaf in _leaves(field)]


def _leaves(field: pa.Field) -> Iterable[str]:
    """Names of a field's Parquet columns, as `pyarrow.parquet.write_table` wants them."""
    if pa.types.is_struct(field.type):
        children = [field.type.field(i) for i in range(field.type.num_fields)]
        return [f"{field.name}.{leaf}" for child in children for leaf in _leaves(child)]
    if pa.types.is_list(field.type):
        return [f"{field.name}.list.{leaf}" for leaf in _leaves(field.type.value_field.with_name("element"))]
    return [field.name]
