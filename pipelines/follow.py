"""Jobs that follow the committed shards of another dataset: `regate` and `annotate`.

What is made from a shard notes that shard's checksum (`Done.follows`), so that it is found out when the shard was
rebuilt or has grown.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import replace

import pyarrow as pa

from pipelines import record, shards
from pipelines.config import UserError
from pipelines.dataset import Manifest, Standing
from pipelines.shards import Done
from pipelines.store import Store
from pipelines.work import ShardResult


def fingerprint(done: Done) -> str:
    """The sha256 of the checksums of all files of a shard, in hex."""
    return hashlib.sha256(" ".join(done.files[folder].sha256 for folder in shards.FOLDERS).encode()).hexdigest()


def read_shard(source: Store, index: int) -> tuple[Done, ShardResult]:
    """A committed shard's done marker and rows. Raises ValueError where its files do not match it."""
    done = _marker(source, index)
    rows = shards.read_back(source, done)
    if rows is None:
        raise ValueError(f"{source.root}: shard {index} does not match its done marker: humansd repair {source.root}")
    return done, rows


def read_accepted(source: Store, index: int) -> tuple[Done, pa.Table]:
    """A committed shard's done marker and its accepted rows. Raises ValueError where they do not match."""
    done = _marker(source, index)
    data = source.read(shards.table_name("shards", index))
    if hashlib.sha256(data).hexdigest() != done.files["shards"].sha256:
        raise ValueError(f"{source.root}: shard {index} does not match its done marker: humansd repair {source.root}")
    return done, shards.read_parquet(pa.BufferReader(data))


def regated(source: Store, manifest: Manifest, wanted: range, markers: Iterable[Done]) -> Standing:
    """Which shards are to be made from those of `source`: what is there is grown only where the source has more now."""
    found = Standing([])
    there = {done.shard: done for done in markers}
    for known in shards.read_markers(source, wanted):
        task = replace(manifest.task(known.shard), stop=min(known.stop, manifest.task(known.shard).stop))
        done = there.get(known.shard)
        if done is None:
            found.tasks.append(task)
            continue
        wanting = done.stop < task.stop or (done.short and done.max_attempts < task.max_attempts)
        if wanting and done.follows != fingerprint(known):
            found.tasks.append(replace(task, extend=True))
    growing = {task.index for task in found.tasks}
    for done in there.values():
        found.accepted += done.accepted
        found.rejected += done.rejected
        if done.shard not in growing:
            found.complete += 1
            found.short += done.short
    return found


def annotated(source: Store, manifest: Manifest, wanted: range, markers: Iterable[Done]) -> Standing:
    """Which of the source's shards have no columns, or those of other rows."""
    found = Standing([])
    there = {done.shard: done for done in markers}
    for known in shards.read_markers(source, wanted):
        done = there.get(known.shard)
        if done is None or done.follows != known.files["shards"].sha256:
            found.tasks.append(replace(manifest.task(known.shard), start=known.start, stop=known.stop))
        else:
            found.complete += 1
            found.accepted += done.accepted
    return found


def check_version(store: Store, manifest: Manifest) -> None:
    """Raise UserError where a dataset was made by a version whose bytes were others."""
    have, now = (manifest.schema_version, manifest.data_version), (record.SCHEMA_VERSION, record.DATA_VERSION)
    if have != now:
        raise UserError(f"{store.root} was made by a version of humansd with other data ({have}, now {now})")


def _marker(source: Store, index: int) -> Done:
    done = next(shards.read_markers(source, range(index, index + 1)), None)
    if done is None:
        raise ValueError(f"{source.root}: shard {index} is not there any more")
    return done
