"""Reading datasets from Python: `from pipelines import open_dataset`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import pyarrow as pa

from pipelines import columns, record, shards
from pipelines.config import UserError
from pipelines.dataset import read_manifest
from pipelines.record import Sample
from pipelines.store import Store

if TYPE_CHECKING:
    import pyarrow.dataset

READERS: Final = 8


@dataclass(frozen=True, slots=True)
class Part:
    """One OUT: where it is, and its committed shards when it was opened."""

    store: Store
    shards: tuple[int, ...]


class Dataset:
    """The accepted rows of one or several OUTs, in their order; made by `open_dataset`.

    add, poses: as in `pipelines.columns.read_shard`.
    """

    def __init__(self, parts: Sequence[Part], add: Sequence[str] = (), poses: str | None = None) -> None:
        self.parts = tuple(parts)
        self._add = tuple(add)
        self._poses = poses

    def __len__(self) -> int:
        rows = 0
        for part in self.parts:
            opened = set(part.shards)
            rows += sum(done.accepted for done in shards.read_markers(part.store) if done.shard in opened)
        return rows

    def tables(self, wanted: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """Yield the rows a shard at a time. wanted: columns of the record; None = all, images included."""
        for part in self.parts:
            for index in part.shards:
                yield columns.read_shard(part.store, index, wanted, self._add, self._poses)

    def table(self, wanted: Sequence[str] | None = None) -> pa.Table:
        """All rows as one table; leave `image` out of `wanted` where they are many."""
        found = list(self.tables(wanted))
        if not found:
            return record.SCHEMA.empty_table().select(list(wanted or record.SCHEMA.names))
        return pa.concat_tables(found, promote_options="permissive")

    def samples(self) -> Iterator[Sample]:
        """Yield the rows one by one."""
        for table in self.tables():
            yield from record.table_to_samples(table)

    def arrow(self) -> pyarrow.dataset.Dataset:
        """The shards as an Arrow dataset, to scan, filter or hand to DuckDB: the record's own columns."""
        import pyarrow.dataset as pads  # imports pandas: a second that only this function needs
        from pyarrow.fs import LocalFileSystem

        parts = []
        for part in self.parts:
            paths = [part.store.path(shards.table_name("shards", index)) for index in part.shards]
            filesystem = LocalFileSystem() if part.store.local else part.store.fs
            if paths:
                parts.append(pads.dataset(paths, schema=record.SCHEMA, format="parquet", filesystem=filesystem))
            else:
                parts.append(pads.dataset(record.SCHEMA.empty_table()))
        return parts[0] if len(parts) == 1 else pads.dataset(parts)


def open_dataset(outs: str | Sequence[str], columns: Sequence[str] = (), poses: str | None = None) -> Dataset:
    """Open one or several OUTs as one dataset. Only shards that are committed now are in it.

    columns: names of columns that `humansd annotate` added, which come as `NAME.column`. poses: one of them whose
    people take the place of the record's.
    Raises UserError where an OUT holds no dataset and where a key is in two of them (it names both).
    """
    stores = [Store(out) for out in ([outs] if isinstance(outs, str) else outs)]
    for store in stores:
        read_manifest(store)
    parts = [Part(store, tuple(shards.done_indices(store))) for store in stores]
    if len(parts) > 1:  # within one, `humansd verify` looks
        _check_keys(parts)
    return Dataset(parts, columns, poses)


def _check_keys(parts: Sequence[Part]) -> None:
    def keys_of(place: tuple[Store, int]) -> list[str]:
        store, index = place
        keys: list[str] = shards.read_table(store, "shards", index, ["key"])["key"].to_pylist()
        return keys

    places = [(part.store, index) for part in parts for index in part.shards]
    seen: dict[str, str] = {}
    with ThreadPoolExecutor(READERS) as pool:
        for (store, index), keys in zip(places, pool.map(keys_of, places), strict=True):
            where = store.path(shards.table_name("shards", index))
            for key in keys:
                if key in seen:
                    raise UserError(f"key {key} is in both {seen[key]} and {where}: leave one of them out")
                seen[key] = where
