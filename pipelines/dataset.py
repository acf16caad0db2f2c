"""A dataset as a whole: what it was made from, which shards are missing, reading it, and whether it is sound."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.fs import LocalFileSystem

from pipelines import lease, record, shards
from pipelines.config import UserError, difference
from pipelines.store import Store, temporary_run
from pipelines.work import ShardTask

if TYPE_CHECKING:
    import pyarrow.dataset

DATASET: Final = "dataset.json"
INDEX: Final = "index.parquet"
EVERYTHING: Final = range(10**8)
"""Every shard that eight digits can name: the range to lease for work on a dataset as a whole."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """`dataset.json`: what a dataset was made from.

    identity decides its bytes, identity_hash is the sha256 of it. n and max_attempts may grow, nothing else may change.
    config: the whole resolved config of the last run, for the reader.
    """

    source: str
    identity_hash: str
    identity: Mapping[str, Any]
    n: int
    shard_size: int
    max_attempts: int
    config: Mapping[str, Any]
    schema_version: int = record.SCHEMA_VERSION
    data_version: int = record.DATA_VERSION

    @property
    def shards(self) -> range:
        """All shards of the dataset."""
        return range(-(-self.n // self.shard_size))

    def task(self, index: int) -> ShardTask:
        """What shard `index` should hold."""
        start = index * self.shard_size
        return ShardTask(index, start, min(start + self.shard_size, self.n), self.max_attempts)


@dataclass(frozen=True, slots=True)
class Problem:
    """Something `verify` found: file (relative to OUT), what is wrong, and the shard to make anew, if it is one."""

    file: str
    what: str
    shard: int | None = None


def read_manifest(store: Store) -> Manifest:
    """What OUT holds. Raises UserError where it is no dataset."""
    found = _read_manifest(store)
    if found is None:
        raise UserError(f"{store.root}: holds no dataset (no {DATASET})")
    return found


def _read_manifest(store: Store) -> Manifest | None:
    try:
        return Manifest(**json.loads(store.read(DATASET)))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (TypeError, ValueError) as error:
        raise UserError(f"{store.path(DATASET)}: not readable as a dataset of this version: {error}") from None


def check_manifest(store: Store, manifest: Manifest) -> bool:
    """Whether OUT's dataset.json has to be written or renewed before this job runs.

    Raises UserError, with the difference and what to do next, where OUT holds another identity or n or max_attempts
    would shrink.
    """
    old = _read_manifest(store)
    if old is None:
        return True
    manifest = Manifest(**json.loads(json.dumps(dataclasses.asdict(manifest))))  # tuples as JSON reads them back
    versions = ("source", "shard_size", "schema_version", "data_version")
    before = {**old.identity, **{name: getattr(old, name) for name in versions}}
    after = {**manifest.identity, **{name: getattr(manifest, name) for name in versions}}
    changed = difference(before, after)
    if changed or old.identity_hash != manifest.identity_hash:
        shown = "; ".join(changed[:5]) + (f"; and {len(changed) - 5} more" if len(changed) > 5 else "")
        raise UserError(
            f"{store.root} holds a dataset of another identity ({shown}): take the old values, or another --out"
        )
    for name in ("n", "max_attempts"):
        have, asked = getattr(old, name), getattr(manifest, name)
        if asked < have:
            raise UserError(f"{store.root}: {name} can only grow: it is {have}, you asked for {asked}")
    return old != manifest


def write_manifest(store: Store, manifest: Manifest, files: Mapping[str, bytes], run: str) -> None:
    """Write dataset.json after the files that go with it."""
    if files:
        store.write_all(files, run)
    store.write(DATASET, json.dumps(dataclasses.asdict(manifest), indent=1).encode(), run)


@dataclass(slots=True)
class Standing:
    """How far a range of shards is.

    tasks: still to do, ascending. complete: shards that need nothing; short: keys of the slots they could not fill.
    accepted, rejected: rows of all committed shards.
    """

    tasks: list[ShardTask]
    complete: int = 0
    accepted: int = 0
    rejected: int = 0
    short: list[str] = dataclasses.field(default_factory=list)


def standing(manifest: Manifest, wanted: range, markers: Iterable[shards.Done]) -> Standing:
    """What is there of the shards wanted, and what is to do.

    A committed shard is grown where it holds fewer slots than asked now, or has slots that could not be filled and
    max_attempts grew.
    """
    found = Standing([])
    committed = set()
    for done in markers:
        committed.add(done.shard)
        task = manifest.task(done.shard)
        if done.stop < task.stop or (done.short and done.max_attempts < task.max_attempts):
            found.tasks.append(dataclasses.replace(task, extend=True))
        else:
            found.complete += 1
            found.short += done.short
        found.accepted += done.accepted
        found.rejected += done.rejected
    found.tasks += [manifest.task(index) for index in wanted if index not in committed]
    found.tasks.sort(key=lambda task: task.index)
    return found


def pending(manifest: Manifest, wanted: range, done: Mapping[int, shards.Done]) -> list[ShardTask]:
    """The shards still to make or to grow, ascending; done: the markers of committed shards."""
    return standing(manifest, wanted, done.values()).tasks


def clean(store: Store, held: range) -> None:
    """Remove temporary files and breadcrumbs that killed runs left; held: the shards whose lease the caller has."""
    for folder in (*shards.FOLDERS, "done", "failed", shards.INFLIGHT):
        for name in store.names(folder):
            number = name.removeprefix(".")[:8]
            leftover = temporary_run(name) is not None or folder == shards.INFLIGHT
            if leftover and number.isdigit() and int(number) in held:
                store.remove([f"{folder}/{name}"])


def open_dataset(outs: Sequence[str]) -> pyarrow.dataset.Dataset:
    """One or several OUTs as one Arrow dataset of accepted rows: to scan, filter, or hand to pandas and DuckDB.

    Only committed shards are in it. Raises UserError where an OUT holds no dataset and where a key is in two places
    (it names both).
    """
    import pyarrow.dataset as pads  # imports pandas: a second that only this function needs

    parts = []
    seen: dict[str, str] = {}
    for store in (Store(out) for out in outs):
        read_manifest(store)
        indices = shards.done_indices(store)
        for index in indices:
            where = store.path(shards.table_name("shards", index))
            for key in shards.read_table(store, "shards", index, ["key"])["key"].to_pylist():
                if key in seen:
                    raise UserError(f"key {key} is in both {seen[key]} and {where}: leave one of them out")
                seen[key] = where
        paths = [store.path(shards.table_name("shards", index)) for index in indices]
        filesystem = LocalFileSystem() if store.local else store.fs
        if paths:
            parts.append(pads.dataset(paths, schema=record.SCHEMA, format="parquet", filesystem=filesystem))
        else:
            parts.append(pads.dataset(record.SCHEMA.empty_table()))
    return parts[0] if len(parts) == 1 else pads.dataset(parts)


def write_index(out: str) -> int:
    """Write OUT/index.parquet: every column but the image, plus shard and row within it. Returns its rows."""
    store = Store(out)
    read_manifest(store)
    columns = [name for name in record.SCHEMA.names if name != "image"]
    sink = pa.BufferOutputStream()
    schema = pa.schema([*(record.SCHEMA.field(name) for name in columns), ("shard", pa.int32()), ("row", pa.int32())])
    rows = 0
    with pq.ParquetWriter(sink, schema, compression="zstd") as writer:
        for index in shards.done_indices(store):
            table = shards.read_table(store, "shards", index, columns).select(columns)
            numbers = pa.array(range(table.num_rows), pa.int32())
            table = table.append_column("shard", pa.array([index] * table.num_rows, pa.int32()))
            writer.write_table(table.append_column("row", numbers).cast(schema))
            rows += table.num_rows
    store.write(INDEX, memoryview(sink.getvalue()), lease.new_run())
    return rows


def verify(out: str) -> Iterator[Problem]:
    """Re-read every file of a dataset against its done markers and yield what is wrong; nothing means it is sound.

    Shards that were never made are no problem, and neither is what running drivers are writing.
    Raises UserError where OUT is no dataset.
    """
    store = Store(out)
    yield from _problems(store, lease.live(store))


def _problems(store: Store, running: Sequence[lease.Holder]) -> Iterator[Problem]:
    manifest = read_manifest(store)
    keys: dict[str, int] = {}
    committed = shards.done_indices(store)
    for index in committed:
        yield from _verify_shard(store, manifest, index, keys)
    settled = set(committed)
    for folder in shards.FOLDERS:
        for name in store.names(folder):
            number = int(name[:8]) if name[:8].isdigit() else -1
            if any(number in range(driver.start, driver.stop) or driver.run in name for driver in running):
                continue  # being written right now
            if temporary_run(name) is not None:
                yield Problem(f"{folder}/{name}", "left over from an interrupted write")
            elif number not in settled:
                yield Problem(f"{folder}/{name}", "has no done marker: never committed")


def _verify_shard(store: Store, manifest: Manifest, index: int, keys: dict[str, int]) -> Iterator[Problem]:
    marker = shards.done_name(index)
    try:
        done = shards.parse_done(store.read(marker))
    except ValueError as error:
        yield Problem(marker, str(error), index)
        return
    if done.shard != index or done.identity != manifest.identity_hash:
        yield Problem(marker, "belongs to another shard or dataset", index)
        return
    for folder in shards.FOLDERS:
        name = shards.table_name(folder, index)
        what = _verify_file(store, name, done.files[folder])
        if what is not None:
            yield Problem(name, what, index)
        elif folder == "shards":
            for key in shards.read_table(store, folder, index, ["key"])["key"].to_pylist():
                if key in keys:
                    yield Problem(name, f"holds the key {key}, which is in shard {keys[key]} too", index)
                keys[key] = index


def _verify_file(store: Store, name: str, expected: shards.FileInfo) -> str | None:
    try:
        data = store.read(name)
    except FileNotFoundError:
        return "is missing"
    if len(data) != expected.bytes:
        return f"has {len(data)} bytes, its done marker says {expected.bytes}"
    if hashlib.sha256(data).hexdigest() != expected.sha256:
        return "does not have the sha256 of its done marker"
    try:
        rows = shards.read_parquet(pa.BufferReader(data)).num_rows
    except (pa.ArrowInvalid, OSError) as error:
        return f"is not readable: {str(error).splitlines()[0]}"
    return None if rows == expected.rows else f"has {rows} rows, its done marker says {expected.rows}"


def repair(out: str) -> list[Problem]:
    """Drop what does not match, so that running the job again makes exactly that anew. Returns what was found.

    Raises UserError while a driver works on OUT.
    """
    store = Store(out)
    read_manifest(store)
    with contextlib.closing(lease.acquire(store, EVERYTHING, lease.new_run())):
        found = list(_problems(store, running=()))
        bad = sorted({problem.shard for problem in found if problem.shard is not None})
        store.remove(shards.done_name(index) for index in bad)  # first: from here on these shards do not exist
        store.remove(shards.table_name(folder, index) for index in bad for folder in shards.FOLDERS)
        store.remove(problem.file for problem in found if problem.shard is None)
    return found
