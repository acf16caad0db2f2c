"""What was taken down from a dataset: the list OUT/takedown.parquet, which every write consults.

`pipelines.shards.commit` leaves out what is on the list, whatever made the rows; so does an import's copy of its
annotations, and a download. `pipelines.takedown` writes the list and removes what is there already.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Final

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.config import UserError
from pipelines.record import LedgerRow, Sample

if TYPE_CHECKING:
    from pipelines.store import Store
    from pipelines.work import ShardResult

LIST: Final = "takedown.parquet"
STAGE: Final = "takedown"
"""`LedgerRow.stage` of what was taken down; there is one such row a key, and it holds nothing but the key."""
REASON: Final = "removed"
SCHEMA: Final = pa.schema(
    [("kind", pa.string()), ("value", pa.string()), ("matched", pa.string()), ("time", pa.string())]
)

_HASH: Final = re.compile(r"[0-9a-f]{16}|[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of the list.

    kind: `key`, `url`, `hash` (hex: 64 digits are the SHA-256 of the stored image or of the file it came from, 16 its
    perceptual hash); `look` is the perceptual hash of what was removed, so that no near-duplicate takes its place.
    matched: the url or hash for which this key was found, or the key of this look; None for what was asked.
    time: UTC, ISO 8601.
    """

    kind: str
    value: str
    matched: str | None = None
    time: str = ""


@dataclass(frozen=True)
class Takedowns:
    """The list of one dataset."""

    entries: tuple[Entry, ...] = ()

    @classmethod
    def read(cls, store: Store) -> Takedowns:
        """Read a dataset's list, empty where there is none. Raises UserError where it is not readable."""
        try:
            rows = pq.ParquetFile(pa.BufferReader(store.read(LIST))).read(use_threads=False).to_pylist()
            return cls(tuple(Entry(**row) for row in rows))
        except FileNotFoundError:
            return cls()
        except (pa.ArrowInvalid, TypeError) as error:
            reason = str(error).partition("\n")[0]
            raise UserError(f"{store.path(LIST)}: not readable, and nothing is written without it: {reason}") from None

    def write(self, store: Store, run: str) -> None:
        """Write the list where the dataset has another one."""
        sink = pa.BufferOutputStream()
        rows = [{name: getattr(entry, name) for name in SCHEMA.names} for entry in self.entries]
        pq.write_table(pa.Table.from_pylist(rows, SCHEMA), sink, compression="zstd")
        if self != Takedowns.read(store):
            store.write(LIST, memoryview(sink.getvalue()), run)

    def add(self, entries: Iterable[Entry]) -> Takedowns:
        """The list with more on it; what is on it already stays as it is."""
        there = {(entry.kind, entry.value, entry.matched) for entry in self.entries}
        new: dict[tuple[str, str, str | None], Entry] = {}
        for entry in entries:
            name = (entry.kind, entry.value, entry.matched)
            if name not in there:
                new.setdefault(name, entry)
        return Takedowns((*self.entries, *new.values()))

    @cached_property
    def keys(self) -> frozenset[str]:
        """Keys of samples."""
        return self._values("key")

    @cached_property
    def urls(self) -> frozenset[str]:
        """Addresses of images."""
        return self._values("url")

    @cached_property
    def files(self) -> frozenset[str]:
        """SHA-256 of stored images or of the files they came from, in hex."""
        return frozenset(value for value in self._values("hash") if len(value) == 64)

    @cached_property
    def images(self) -> frozenset[int]:
        """Perceptual hashes, unsigned 64-bit."""
        return frozenset(int(value, 16) for value in self._values("hash") if len(value) == 16)

    @cached_property
    def looks(self) -> tuple[int, ...]:
        """Perceptual hashes of what was removed, unsigned 64-bit, ascending."""
        return tuple(sorted(int(value, 16) for value in self._values("look")))

    def _values(self, kind: str) -> frozenset[str]:
        return frozenset(entry.value for entry in self.entries if entry.kind == kind)

    def names(self, key: str, url: str | None = None) -> bool:
        """Whether a key, or the address it came from, is on the list."""
        return key in self.keys or url in self.urls

    def matches(self, sample: Sample) -> list[str]:
        """The urls and hashes on the list that a sample matches; [] where it does so by its key at most."""
        origin, found = sample.origin, []
        if origin is not None:
            found += [value for value in (origin.url, origin.sha256) if value in self.urls or value in self.files]
        if self.files and sample.image is not None:
            found += [digest for digest in [hashlib.sha256(sample.image).hexdigest()] if digest in self.files]
        if sample.phash is not None and sample.phash in self.images:
            found.append(f"{sample.phash:016x}")
        return list(dict.fromkeys(found))

    def found_in(self, rows: ShardResult) -> dict[str, list[str]]:
        """Keys among a shard's rows that are on the list or were taken down before, each with what else it matches."""
        found: dict[str, list[str]] = {}
        for sample in (*rows.accepted, *(row.sample for row in rows.rejected)):
            matched = self.matches(sample)
            if matched or sample.key in self.keys:
                found[sample.key] = [*found.get(sample.key, ()), *matched]
        for row in rows.ledger:
            if row.stage == STAGE or self.names(row.key, row.url):
                matched = [row.url] if row.url is not None and row.url in self.urls else []
                found[row.key] = [*found.get(row.key, ()), *matched]
        for key in rows.short:
            if key in self.keys:
                found.setdefault(key, [])
        return {key: list(dict.fromkeys(matched)) for key, matched in found.items()}

    def apply(self, rows: ShardResult, shard: int) -> ShardResult:
        """A shard's rows without what is on the list: one ledger row stands for all that was known of a key."""
        gone = self.found_in(rows).keys()
        if not gone:
            return rows
        return replace(
            rows,
            accepted=[sample for sample in rows.accepted if sample.key not in gone],
            rejected=[row for row in rows.rejected if row.sample.key not in gone],
            ledger=[
                *(row for row in rows.ledger if row.key not in gone),
                *(removed(key, shard) for key in sorted(gone)),
            ],
            short=[key for key in rows.short if key not in gone],
        )


def removed(key: str, shard: int) -> LedgerRow:
    """The ledger row of what was taken down."""
    return LedgerRow(key, shard, 1, STAGE, REASON, {})


def unsettled(rows: ShardResult) -> ShardResult:
    """A shard's rows as the work that grows it may see them: those taken down tell it nothing.

    So it goes the same way as if nothing had been taken down, and the shard comes out as one made at once.
    """
    return replace(rows, ledger=[row for row in rows.ledger if row.stage != STAGE])


def spread(store: Store, others: Iterable[Store], run: str) -> None:
    """Give a dataset's list to the folders that are made from it, or for it."""
    whole = Takedowns.read(store)
    for other in others if whole.entries else ():
        whole.write(other, run)


def listed_keys(text: str) -> list[str]:
    """The keys of a text file with one a line; lines that start with # are notes."""
    return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]


def parse(
    keys: Iterable[str] = (), urls: Iterable[str] = (), hashes: Iterable[str] = (), time: str = ""
) -> list[Entry]:
    """What a user asks to take down. Raises UserError for a hash that is none, and for an empty value."""
    given: Mapping[str, Iterable[str]] = {"key": keys, "url": urls, "hash": hashes}
    found = [(kind, value.strip()) for kind, values in given.items() for value in values]
    found = [(kind, value.lower() if kind == "hash" else value) for kind, value in found]
    for kind, value in found:
        if not value:
            raise UserError(f"--{kind}: is empty")
        if kind == "hash" and not _HASH.fullmatch(value):
            raise UserError(f"--hash {value}: must be 64 hex digits (SHA-256) or 16 (perceptual hash)")
    return [Entry(kind, value, None, time) for kind, value in dict.fromkeys(found)]
