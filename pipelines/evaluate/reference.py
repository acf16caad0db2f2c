"""The samples that every model is given, frozen as a dataset of their own: captions, poses and the real images.

So an evaluation goes on with the same samples though the data has grown, and the real images are measured like those
that models make: their figures say how far the judges themselves can be trusted.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from pipelines import dataset, lease, record, shards
from pipelines.config import UserError, identity_of_values
from pipelines.dataset import Manifest
from pipelines.reading import open_dataset
from pipelines.record import Sample
from pipelines.store import Store
from pipelines.work import ShardResult

SOURCE = "reference"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a sample lies in the data: its OUT's store, shard and row."""

    store: Store
    shard: int
    row: int


def spread(outs: Sequence[str], limit: int | None) -> tuple[list[Place], dict[str, str]]:
    """Return the places of up to `limit` samples, evenly over all, and OUT → what it holds, by content.

    Raises UserError where an OUT is no dataset or there is no sample.
    """
    parts = open_dataset(outs).parts
    starts, places, total = [], [], 0
    content: dict[str, str] = {}
    for part in parts:
        files = {}
        for done in shards.read_markers(part.store):
            starts.append(total)
            places.append((part.store, done.shard))
            total += done.accepted
            files[str(done.shard)] = done.files["shards"].sha256
        content[part.store.root] = identity_of_values(files)
    if not total:
        raise UserError(f"{', '.join(outs)}: no sample to measure on yet")
    count = min(limit or total, total)
    rows = [index * total // count for index in range(count)]
    found = []
    for row in rows:
        which = bisect_right(starts, row) - 1
        found.append(Place(*places[which], row - starts[which]))
    return found, content


def freeze(outs: Sequence[str], to: str, limit: int | None, shard_size: int) -> Manifest:
    """Copy the samples into the dataset `to`, or what is still missing of it; return what it holds.

    Raises UserError where `to` holds other samples.
    """
    places, content = spread(outs, limit)
    named = {"samples": len(places), "shard_size": shard_size, "data": sorted(content.values())}
    manifest = Manifest(
        source=SOURCE,
        identity_hash=identity_of_values(named),
        identity=named,
        n=len(places),
        shard_size=shard_size,
        max_attempts=1,
        config={"data": list(outs)},
    )
    store, run = Store(to), lease.new_run()
    if dataset.check_manifest(store, manifest):
        dataset.write_manifest(store, manifest, {}, run)
    there = set(shards.done_indices(store))
    for index in manifest.shards:
        if index not in there:
            task = manifest.task(index)
            samples = _read(places[task.start : task.stop])
            shards.commit(store, task, ShardResult(accepted=samples), manifest.identity_hash, run)
    return manifest


def _read(places: Sequence[Place]) -> list[Sample]:
    found: list[Sample] = []
    tables: dict[tuple[str, int], pa.Table] = {}
    for place in places:
        where = (place.store.url, place.shard)
        if where not in tables:
            tables = {where: shards.read_table(place.store, "shards", place.shard)}
        found += record.table_to_samples(tables[where].slice(place.row, 1))
    return found
