"""One row of a dataset, with its image: read by its key from the row group that holds it."""

from __future__ import annotations

import functools
import threading
from collections import defaultdict
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import record, shards
from pipelines.config import UserError
from pipelines.inspect.catalog import Kind
from pipelines.record import LedgerRow, Rejected, Sample
from pipelines.store import Store

FOLDERS: Final = {"accepted": "shards", "rejected": "rejected"}
"""Where the images of each kind of rows are."""

KEPT_GROUPS: Final = 8
KEPT_SHARDS: Final = 64

Places = dict[tuple[str, int | None], tuple[int, int]]
"""(key, attempt) → row group, and row within it. Accepted rows have no attempt: a key is there once."""


class Lookup:
    """Rows of one dataset by their keys. Its methods may be called from several threads at once.

    The rows that a page shows are often neighbours: the row groups read last are kept, until their file changes.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._places = functools.lru_cache(KEPT_SHARDS)(self._read_places)
        self._group = functools.lru_cache(KEPT_GROUPS)(self._read_group)
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)

    def find(self, kind: Kind, shard: int, key: str, attempt: int | None = None) -> Sample | Rejected | None:
        """Return a row of a committed shard; None where it is not there (any more), or was not kept.

        Raises UserError where the file is damaged.
        """
        name = shards.table_name(FOLDERS[kind], shard)
        changed = self._store.modified(name)
        if changed is None or not shards.done_indices(self._store, range(shard, shard + 1)):
            return None
        try:
            with self._locks[name]:  # a page asks for many rows of a shard at once: what they share is read once
                place = self._places(name, kind, changed).get((key, attempt))
                one = None if place is None else self._group(name, place[0], changed).slice(place[1], 1)
        except FileNotFoundError:
            return None
        except (OSError, pa.ArrowInvalid) as error:
            reason, out = str(error).partition("\n")[0], self._store.root
            raise UserError(f"{name}: not readable: humansd verify {out} tells more ({reason})") from None
        if one is None:
            return None
        return (record.table_to_samples(one) if kind == "accepted" else record.table_to_rejected(one))[0]

    def ledger_row(self, shard: int, key: str, attempt: int) -> LedgerRow | None:
        """Return what the ledger says of a candidate; None where it says nothing."""
        try:
            table = shards.read_table(self._store, "ledger", shard)
        except FileNotFoundError:
            return None
        rows = zip(table["key"].to_pylist(), table["attempt"].to_pylist(), strict=True)
        found = [number for number, row in enumerate(rows) if row == (key, attempt)]
        return record.table_to_ledger(table.slice(found[0], 1))[0] if found else None

    def _read_places(self, name: str, kind: Kind, changed: float) -> Places:
        columns = ["key"] if kind == "accepted" else ["key", "attempt"]
        found: Places = {}
        with self._store.open_parquet(name, columns) as opened:
            file = pq.ParquetFile(opened)
            for group in range(file.num_row_groups):
                rows = file.read_row_group(group, columns, use_threads=False).to_pylist()
                found.update({(row["key"], row.get("attempt")): (group, place) for place, row in enumerate(rows)})
        return found

    def _read_group(self, name: str, group: int, changed: float) -> pa.Table:
        with self._store.open_parquet(name, row_groups=[group]) as opened:
            return pq.ParquetFile(opened).read_row_group(group, use_threads=False)
