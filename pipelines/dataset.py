"""A dataset as a whole: what it was made from, which shards are missing, reading it, and whether it is sound."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import columns, lease, record, shards
from pipelines.config import UserError, difference
from pipelines.store import Store, temporary_run
from pipelines.work import ShardTask

if TYPE_CHECKING:
    from pipelines.job import Job

DATASET: Final = "dataset.json"
INDEX: Final = "index.parquet"
_BEFORE_THE_FIRST_SHARD: Final = {
    *(DATASET, "README.md", "croissant.json", "grammar", "progress.json", ".run", "failed", "done"),
    *shards.FOLDERS,
}
"""What may lie in OUT before its first shard is committed; anything else is the work of another stage."""

INDEX_GROUP_ROWS: Final = 20_000
"""Rows of a row group of the index, at least: a group a shard would make a million rows slow to open."""

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
    """Something `verify` found: file (relative to OUT), what is wrong, and the shard to make anew, if it is one.

    columns: the added columns that it concerns; None: the dataset itself. stage: the folder of an earlier stage.
    """

    file: str
    what: str
    shard: int | None = None
    columns: str | None = None
    stage: str = ""


def manifest_of(job: Job) -> Manifest:
    """What a job's dataset is made from."""
    fields = ("source", "identity_hash", "identity", "n", "shard_size", "max_attempts", "config")
    return Manifest(**{name: getattr(job, name) for name in fields})


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
    would shrink. Where nothing was committed yet, there is nothing to protect.
    """
    old = _read_manifest(store)
    if old is None:
        return True
    manifest = Manifest(**json.loads(json.dumps(dataclasses.asdict(manifest))))  # tuples as JSON reads them back
    versions = ("source", "shard_size", "schema_version", "data_version")
    before = {**old.identity, **{name: getattr(old, name) for name in versions}}
    after = {**manifest.identity, **{name: getattr(manifest, name) for name in versions}}
    changed = difference(before, after)
    shrunk = [
        f"{name} can only grow: it is {getattr(old, name)}, you asked for {getattr(manifest, name)}"
        for name in ("n", "max_attempts")
        if getattr(manifest, name) < getattr(old, name)
    ]
    if (changed or old.identity_hash != manifest.identity_hash or shrunk) and _is_empty(store):
        return True
    if changed or old.identity_hash != manifest.identity_hash:
        shown = "; ".join(changed[:5]) + (f"; and {len(changed) - 5} more" if len(changed) > 5 else "")
        what, other = ("columns", "--name") if manifest.source == columns.SOURCE else ("a dataset", "--out")
        raise UserError(
            f"{store.root} holds {what} of another identity ({shown}): take the old values, or another {other}"
        )
    if shrunk:
        raise UserError(f"{store.root}: {shrunk[0]}")
    return old != manifest


def _is_empty(store: Store) -> bool:
    """Whether nothing was ever committed: the first run failed, for want of a model or a cluster, or was stopped."""
    return not (shards.done_indices(store) or set(store.names("")) - _BEFORE_THE_FIRST_SHARD)


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


def standing(manifest: Manifest, wanted: Iterable[int], markers: Iterable[shards.Done]) -> Standing:
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
    running = lease.runs(store)
    for folder in ("", lease.LEASES):
        names = [name for name in store.names(folder) if temporary_run(name) not in (None, *running)]
        store.remove(f"{folder}/{name}".lstrip("/") for name in names)
    for folder in ("", *shards.FOLDERS, "done", "failed", shards.INFLIGHT):
        for name in store.names(folder):
            number = name.removeprefix(".")[:8]
            leftover = temporary_run(name) is not None or folder == shards.INFLIGHT
            if leftover and number.isdigit() and int(number) in held:
                store.remove([f"{folder}/{name}".removeprefix("/")])


def write_index(out: str, add: Sequence[str] = ()) -> int:
    """Write OUT/index.parquet: every column but the image, plus shard and row within it. Returns its rows.

    add: names of columns that `annotate` added; they come as `NAME.column`.
    """
    store = Store(out)
    read_manifest(store)
    wanted = [name for name in record.SCHEMA.names if name != "image"]
    indices = shards.done_indices(store)
    schema = pa.schema([*(record.SCHEMA.field(name) for name in wanted), *columns.fields(store, indices, add)])
    schema = schema.append(pa.field("shard", pa.int32())).append(pa.field("row", pa.int32()))
    rows = 0

    def index_rows() -> Iterator[pa.Table]:
        for index in indices:
            table = columns.read_shard(store, index, wanted, add)
            table = table.append_column("shard", pa.array([index] * table.num_rows, pa.int32()))
            table = table.append_column("row", pa.array(range(table.num_rows), pa.int32()))
            for field in schema:
                if field.name not in table.column_names:
                    table = table.append_column(field, pa.nulls(table.num_rows, field.type))
            yield table.select(schema.names).cast(schema)

    def write(file: BinaryIO) -> None:
        nonlocal rows
        with pq.ParquetWriter(file, schema, compression="zstd") as writer:
            for group in _groups(index_rows(), INDEX_GROUP_ROWS):
                writer.write_table(group)
                rows += group.num_rows

    store.write(INDEX, write, lease.new_run())
    return rows


def _groups(tables: Iterable[pa.Table], rows: int) -> Iterator[pa.Table]:
    """Small tables joined to ones of at least so many rows; the last may be smaller."""
    waiting: list[pa.Table] = []
    for table in tables:
        waiting.append(table)
        if sum(one.num_rows for one in waiting) >= rows:
            yield pa.concat_tables(waiting)
            waiting.clear()
    if waiting:
        yield pa.concat_tables(waiting)


def verify(out: str) -> Iterator[Problem]:
    """Re-read every file of a dataset against its done markers and yield what is wrong; nothing means it is sound.

    Added columns are read too, and those that are not of their shard's rows (any more) are named.
    Shards that were never made are no problem, and neither is what running drivers are writing.
    Raises UserError where OUT is no dataset.
    """
    store = Store(out)
    for stage in _stages(store):
        yield from _problems_of_stage(store, stage, lease.live(store.below(stage)))
    yield from _problems(store, lease.live(store))
    for name in columns.names(store):
        own = columns.folder(store, name)
        yield from _problems_of_columns(store, name, lease.live(own))


def _problems(store: Store, running: Sequence[lease.Holder]) -> Iterator[Problem]:
    manifest = read_manifest(store)
    if manifest.source == "laion-human" and store.names("plan"):
        from pipelines.laion import stages

        yield from stages.problems(store)
    keys: dict[str, int] = {}
    committed = shards.done_indices(store)
    for index in committed:
        yield from _verify_shard(store, manifest, index, keys)
    settled = set(committed)
    folders = ("",) if manifest.source == columns.SOURCE else shards.FOLDERS
    for folder in folders:
        for name in store.names(folder):
            number = int(name[:8]) if name[:8].isdigit() else -1
            if any(number in range(driver.start, driver.stop) or driver.run in name for driver in running):
                continue  # being written right now
            file = f"{folder}/{name}".removeprefix("/")
            if temporary_run(name) is not None:
                yield Problem(file, "left over from an interrupted write")
            elif number not in settled and (folder or number >= 0):
                yield Problem(file, "has no done marker: never committed")


def _stages(store: Store) -> list[str]:
    """The folders of earlier stages, which are datasets of their own, as they follow from each other."""
    if read_manifest(store).source != "laion-human":
        return []
    from pipelines.laion import stages

    return stages.folders(store)


def _problems_of_stage(store: Store, stage: str, running: Sequence[lease.Holder]) -> Iterator[Problem]:
    for problem in _problems(store.below(stage), running):
        yield dataclasses.replace(problem, file=f"{stage}/{problem.file}", stage=stage)


def _problems_of_columns(store: Store, name: str, running: Sequence[lease.Holder]) -> Iterator[Problem]:
    own = columns.folder(store, name)
    found: list[Problem] = []
    try:
        found += _problems(own, running)
    except UserError as error:
        yield Problem(f"{columns.COLUMNS}/{name}/{DATASET}", str(error))
        return
    damaged = {problem.shard for problem in found}
    for index, why in columns.stale(store, name):
        if index not in damaged:
            found.append(Problem(shards.table_name("", index), why, index))
    for problem in found:
        yield dataclasses.replace(problem, file=f"{columns.COLUMNS}/{name}/{problem.file}", columns=name)


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
    for folder, expected in done.files.items():
        name = shards.table_name(folder, index)
        what = _verify_file(store, name, expected)
        if what is not None:
            yield Problem(name, what, index)
        elif folder in ("shards", ""):
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

    Of a shard whose earlier stage is dropped, the stages that follow from it are dropped too; its rows stay until then.
    Raises UserError while a driver works on OUT.
    """
    store = Store(out)
    read_manifest(store)
    with contextlib.ExitStack() as stack:
        found: list[Problem] = []
        bad: set[int] = set()
        for stage in _stages(store):
            own = store.below(stage)
            stack.enter_context(contextlib.closing(lease.acquire(own, EVERYTHING, lease.new_run())))
            some = list(_problems_of_stage(store, stage, ()))
            follows = [Problem(shards.done_name(index), "", index, stage=stage) for index in sorted(bad)]
            _drop(store, own, [*some, *follows])
            bad.update(problem.shard for problem in some if problem.shard is not None)
            found += some
        for name in (None, *columns.names(store)):  # the dataset first: columns follow it
            own = store if name is None else columns.folder(store, name)
            stack.enter_context(contextlib.closing(lease.acquire(own, EVERYTHING, lease.new_run())))
            some = list(_problems(store, ()) if name is None else _problems_of_columns(store, name, ()))
            _drop(store, own, some)
            found += some
    return found


def _drop(store: Store, own: Store, problems: Sequence[Problem]) -> None:
    bad = sorted({problem.shard for problem in problems if problem.shard is not None})
    own.remove(shards.done_name(index) for index in bad)  # first: from here on these shards do not exist
    folders = ("",) if any(problem.columns for problem in problems) else shards.FOLDERS
    own.remove(shards.table_name(folder, index) for index in bad for folder in folders)
    store.remove(problem.file for problem in problems if problem.shard is None)
