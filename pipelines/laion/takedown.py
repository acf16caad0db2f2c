"""Takedowns in a LAION-Human dataset: its stages, which are datasets of their own, its plan and its verdicts."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.laion.plan import CANDIDATES
from pipelines.laion.stages import candidates_name, verdicts_name
from pipelines.shards import read_parquet
from pipelines.store import Store
from pipelines.taken import Takedowns


def find(store: Store, taken: Takedowns) -> Iterator[tuple[str, int, list[str], bool]]:
    """Yield keys on the list that were planned: their shard, the urls that they match, whether their url is there."""
    for index in _indices(store, "plan"):
        table = _read(store, candidates_name(index))
        for key, url in zip(table["key"].to_pylist(), table["url"].to_pylist(), strict=True):
            if taken.names(key, url):
                yield key, index, [url] if url in taken.urls else [], bool(url)


def rewrite(store: Store, taken: Takedowns, run: str) -> None:
    """Take what is on the list out of plan and verdicts; in the plan the key keeps its place, and nothing else."""
    keys = pa.array(sorted(taken.keys), pa.string())
    for index in _indices(store, "plan"):
        table = _read(store, candidates_name(index))
        gone = pc.is_in(table["key"], keys)
        if pc.any(pc.and_(gone, pc.not_equal(table["url"], ""))).as_py():
            blank = {"url": "", "caption": ""}
            columns = [
                table[name] if name == "key" else pc.if_else(gone, pa.scalar(blank.get(name), field.type), table[name])
                for name, field in zip(CANDIDATES.names, CANDIDATES, strict=True)
            ]
            _write(store, candidates_name(index), pa.Table.from_arrays(columns, schema=CANDIDATES), run)
    for index in _indices(store, "verdicts"):
        table = _read(store, verdicts_name(index))
        kept = table.filter(pc.invert(pc.is_in(table["key"], keys)))
        if kept.num_rows < table.num_rows:
            _write(store, verdicts_name(index), kept, run)


def _indices(store: Store, folder: str) -> list[int]:
    return [int(name[:8]) for name in store.names(folder) if name.endswith(".parquet") and name[:8].isdigit()]


def _read(store: Store, name: str) -> pa.Table:
    return read_parquet(pa.BufferReader(store.read(name)))


def _write(store: Store, name: str, table: pa.Table, run: str) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    store.write(name, memoryview(sink.getvalue()), run)
