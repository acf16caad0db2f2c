"""`humansd takedown`: remove rows from a dataset by key, url or image hash, so that they never come back.

The list (`pipelines.taken`) is written first. Then each file that holds something on it is written anew, one commit a
shard: stages before the dataset, added columns before the shard that they follow. A run that was killed is finished by
the same command; every run applies the whole list.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines import columns, dataset, lease, shards
from pipelines.card import CARD, write_card
from pipelines.config import UserError
from pipelines.record import LedgerRow, Origin, Rejected, Sample
from pipelines.store import Store
from pipelines.taken import STAGE, Entry, Takedowns
from pipelines.work import ShardResult, ShardTask

READERS: Final = 8


@dataclass(slots=True)
class Match:
    """A key that is on the list. shard: where it belongs; matched: urls and hashes on the list that led to it.

    here: whether something of it is still to be removed. looks: perceptual hashes of its images.
    """

    key: str
    shard: int
    matched: list[str] = field(default_factory=list)
    here: bool = False
    looks: set[int] = field(default_factory=set)


@dataclass(slots=True)
class Report:
    """What was (or, in a dry run, would be) removed.

    removed: keys that were there. missing: what was asked for and is nowhere in the dataset, as far as it is made.
    shards: files of accepted rows whose shards were written anew, of the dataset and its stages. columns: tables of
    added columns that were dropped. damaged: shards that were dropped, because their files do not match their marker.
    """

    removed: list[Match] = field(default_factory=list)
    missing: list[Entry] = field(default_factory=list)
    shards: list[str] = field(default_factory=list)
    columns: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """1 where something asked for is not there, or a shard has to be made anew."""
        return 1 if self.missing or self.damaged else 0


def take_down(out: str, asked: Sequence[Entry], *, dry_run: bool = False) -> Report:
    """Remove what is asked for, and whatever else is on the dataset's list, from every file of the dataset.

    Raises UserError where OUT is no dataset, nothing is asked for, or a driver works on it.
    """
    store = Store(out)
    manifest = dataset.read_manifest(store)
    if not asked:
        raise UserError("nothing to take down: give --key, --url, --hash or --keys FILE")
    parts = [*_stages(store, manifest), store]
    added = [columns.folder(store, name) for name in columns.names(store)]
    with contextlib.ExitStack() as stack:
        run = lease.new_run()
        for part in () if dry_run else (*parts, *added):
            stack.enter_context(contextlib.closing(lease.acquire(part, dataset.EVERYTHING, run)))
        taken, found = _search(parts, manifest, Takedowns.read(store).add(asked), asked[0].time)
        report = Report(
            removed=[match for _, match in sorted(found.items()) if match.here],
            missing=[entry for entry in asked if not _is_there(entry, taken, found)],
        )
        if not dry_run:
            taken.write(store, run)  # first of all: from here on it does not come back
        for part in parts:
            _rewrite(part, store, taken, run, report, dry_run=dry_run)
        if not dry_run:
            _rewrite_index(store, taken, run)
            _rewrite_outside(store, manifest, taken, run)
            if store.exists(CARD):  # its counts
                write_card(store)
    return report


def _is_there(entry: Entry, taken: Takedowns, found: dict[str, Match]) -> bool:
    if entry.kind == "key":
        return entry.value in found
    return any(other.matched == entry.value for other in taken.entries)


def _stages(store: Store, manifest: dataset.Manifest) -> list[Store]:
    if manifest.source != "laion-human":
        return []
    from pipelines.laion import stages

    return [store.below(folder) for folder in stages.folders(store)]


def _outside(store: Store, manifest: dataset.Manifest, taken: Takedowns) -> Iterator[Match]:
    """What is on the list in files that are no shards."""
    if manifest.source == "laion-human":
        from pipelines.laion import takedown as laion

        yield from (Match(*found) for found in laion.find(store, taken))
    elif manifest.source in ("human-art", "coco"):
        from pipelines.humanart import takedown as imported

        yield from (Match(*found) for found in imported.find(store, manifest, taken))


def _rewrite_outside(store: Store, manifest: dataset.Manifest, taken: Takedowns, run: str) -> None:
    if manifest.source == "laion-human":
        from pipelines.laion import takedown as laion

        laion.rewrite(store, taken, run)
    elif manifest.source in ("human-art", "coco"):
        from pipelines.humanart import takedown as imported

        imported.rewrite(store, manifest, taken, run)


def _search(
    parts: Sequence[Store], manifest: dataset.Manifest, taken: Takedowns, time: str
) -> tuple[Takedowns, dict[str, Match]]:
    """Find every key on the list. Returns the list with the keys that its urls and hashes led to, too."""
    found: dict[str, Match] = {}

    def note(one: Match) -> None:
        match = found.setdefault(one.key, Match(one.key, one.shard))
        match.matched += [value for value in one.matched if value not in match.matched]
        match.here |= one.here
        match.looks |= one.looks

    for match in _outside(parts[-1], manifest, taken):
        note(match)
    before: frozenset[str] | None = None
    while before != taken.keys:  # a key that one part gives away by its hash is looked for in the others
        before = taken.keys
        for part in parts:
            for index, rows in _rows(part, taken):
                for key, matched in taken.found_in(rows).items():
                    note(Match(key, index, matched, _is_left(rows, key), _looks(rows, key)))
        taken = taken.add(
            Entry("key", key, value, time) for key, match in sorted(found.items()) for value in match.matched
        )
    if manifest.source == "laion-human":  # where near-duplicates are judged
        taken = taken.add(
            Entry("look", f"{look:016x}", key, time) for key, match in sorted(found.items()) for look in match.looks
        )
    return taken, found


def _samples(rows: ShardResult, key: str) -> list[Sample]:
    return [sample for sample in (*rows.accepted, *(row.sample for row in rows.rejected)) if sample.key == key]


def _looks(rows: ShardResult, key: str) -> set[int]:
    return {sample.phash for sample in _samples(rows, key) if sample.phash is not None}


def _is_left(rows: ShardResult, key: str) -> bool:
    """Whether a shard has anything of a key but the row that says it was taken down."""
    told = any(row.key == key and row.stage != STAGE for row in rows.ledger)
    return told or key in rows.short or bool(_samples(rows, key))


def _rows(store: Store, taken: Takedowns) -> Iterator[tuple[int, ShardResult]]:
    """The committed shards, with as much of their rows as tells what is on the list; unreadable ones are left out."""

    def read(done: shards.Done) -> ShardResult | None:
        try:
            return _read(store, done, images=bool(taken.files))
        except (FileNotFoundError, pa.ArrowInvalid, OSError):
            return None

    with ThreadPoolExecutor(READERS) as pool:
        markers = list(shards.read_markers(store))
        for done, rows in zip(markers, pool.map(read, markers), strict=True):
            if rows is not None:
                yield done.shard, rows


def _read(store: Store, done: shards.Done, *, images: bool) -> ShardResult:
    def rows_of(folder: str, *wanted: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = shards.read_table(store, folder, done.shard, list(wanted)).to_pylist()
        return rows

    seen = ("key", "origin", "phash", *(["image"] if images else []))
    ledger = rows_of("ledger", "key", "stage", "reason", "url")
    return ShardResult(
        accepted=[_seen(row) for row in rows_of("shards", *seen)],
        rejected=[Rejected(_seen(row), "", "", 1) for row in rows_of("rejected", *seen)],
        ledger=[
            LedgerRow(row["key"], done.shard, 1, row["stage"], row["reason"], {}, url=row["url"]) for row in ledger
        ],
        short=list(done.short),
    )


def _seen(row: dict[str, Any]) -> Sample:
    """As much of a sample as the list is about."""
    image, origin = (row.get("image") or {}).get("bytes"), row["origin"] and Origin(**row["origin"])
    return Sample(row["key"], "", image, "", 0, 0, "", (), origin=origin, phash=row["phash"])


def _rewrite(part: Store, whole: Store, taken: Takedowns, run: str, report: Report, *, dry_run: bool) -> None:
    """Write the shards anew that hold something on the list: of the dataset (`whole`) or of a stage of it."""
    if not dry_run:
        taken.write(part, run)
        _drop_uncommitted(part)
    clean = {
        index for index, rows in _rows(part, taken) if not any(_is_left(rows, key) for key in taken.found_in(rows))
    }
    place = part.path("").removeprefix(whole.path("")).strip("/")
    identity = dataset.read_manifest(part).identity_hash
    for done in list(shards.read_markers(part)):
        sizes_match = _has_its_sizes(part, done)
        if done.shard in clean and sizes_match:
            continue
        rows = shards.read_back(part, done) if sizes_match else None
        told = report.damaged if rows is None else report.shards
        told.append(f"{place}/{shards.table_name('shards', done.shard)}".lstrip("/"))
        if part is whole:
            report.columns += _drop_columns(whole, done.shard, dry_run=dry_run)
        if dry_run:
            continue
        if rows is None:
            names = [shards.table_name(folder, done.shard) for folder in shards.FOLDERS]
            part.remove([shards.done_name(done.shard), *names])
        else:
            task = ShardTask(done.shard, done.start, done.stop, done.max_attempts)
            shards.commit(part, task, replace(rows, follows=done.follows), identity, run)


def _has_its_sizes(store: Store, done: shards.Done) -> bool:
    """Whether a shard's files are as long as its marker says: they are not where a write was cut off in between."""
    try:
        sizes = {folder: store.size(shards.table_name(folder, done.shard)) for folder in done.files}
    except FileNotFoundError:
        return False
    return all(sizes[folder] == info.bytes for folder, info in done.files.items())


def _drop_uncommitted(store: Store) -> None:
    """Remove what killed runs left: nobody reads it, but it may hold what is on the list."""
    dataset.clean(store, dataset.EVERYTHING)
    committed = {f"{index:08d}.parquet" for index in shards.done_indices(store)}
    for folder in shards.FOLDERS:
        store.remove(f"{folder}/{name}" for name in store.names(folder) if name not in committed)


def _drop_columns(store: Store, index: int, *, dry_run: bool) -> list[str]:
    """Remove what `annotate` added to a shard; returns the files. Running it again makes them anew."""
    dropped = []
    for name in columns.names(store):
        own = columns.folder(store, name)
        if own.exists(shards.table_name("", index)):
            dropped.append(f"{columns.COLUMNS}/{name}/{shards.table_name('', index)}")
            own.remove([] if dry_run else [shards.done_name(index), shards.table_name("", index)])
    return dropped


def _rewrite_index(store: Store, taken: Takedowns, run: str) -> None:
    """Take rows out of index.parquet, and count those that are left of their shards anew."""
    try:
        table = shards.read_parquet(pa.BufferReader(store.read(dataset.INDEX)))
    except FileNotFoundError:
        return
    kept = table.filter(pc.invert(pc.is_in(table["key"], pa.array(sorted(taken.keys), pa.string()))))
    if kept.num_rows == table.num_rows:
        return
    places: Counter[int] = Counter()
    rows = []
    for shard in kept["shard"].to_pylist():
        rows.append(places[shard])
        places[shard] += 1
    kept = kept.set_column(kept.schema.get_field_index("row"), "row", pa.array(rows, pa.int32()))
    sink = pa.BufferOutputStream()
    pq.write_table(kept, sink, compression="zstd")
    store.write(dataset.INDEX, memoryview(sink.getvalue()), run)
