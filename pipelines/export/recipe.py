"""A recipe (`pipelines.recipe`): one Parquet file from which `humansd rebuild` makes a dataset again.

It holds no images, and of the config identity keys only: no places or prices of whoever made it.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO, Final

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.config import UserError
from pipelines.dataset import read_manifest
from pipelines.export.part import FRAGMENTS, Part, stores_of
from pipelines.recipe import METADATA, SCHEMA
from pipelines.shards import read_parquet
from pipelines.store import Store
from pipelines.taken import Takedowns

RECIPE: Final = "recipe.parquet"
SOURCES: Final = ("ghi", "laion-human")


def check(parts: Sequence[Part]) -> None:
    """Raise UserError unless the parts are of one dataset that can be made again from a recipe."""
    if len(stores_of(parts)) > 1:
        raise UserError("--to recipe takes one dataset: a recipe tells what one dataset was made from")
    if parts[0].poses is not None:
        raise UserError("--poses: a recipe tells what the dataset itself holds; leave it out")
    source = read_manifest(parts[0].store).source
    if source not in SOURCES:
        raise UserError(f"{parts[0].store.root}: {source} was imported from files, which a recipe cannot make again")


def files(part: Part) -> Iterator[tuple[str, bytes]]:
    """Yield the rows of a part."""
    table = part.read()
    images = table["image"].combine_chunks()
    data = images.field("bytes").to_pylist()
    table = table.drop_columns(["image"])
    table = table.append_column("image_path", images.field("path"))
    table = table.append_column(
        "image_sha256", pa.array([hashlib.sha256(one).hexdigest() for one in data], pa.string())
    )
    table = table.append_column("image_bytes", pa.array(map(len, data), pa.int64()))
    sink = io.BytesIO()
    pq.write_table(table.select(SCHEMA.names).cast(SCHEMA), sink, compression="zstd")
    yield f"{FRAGMENTS}/{part.name}.parquet", sink.getvalue()


def finish(target: Store, parts: Sequence[Part]) -> Mapping[str, Any]:
    """The one file: a row group a shard, in order."""
    told = json.dumps(_describe(parts), sort_keys=True)

    def write(file: BinaryIO) -> None:
        with pq.ParquetWriter(file, SCHEMA.with_metadata({METADATA: told}), compression="zstd") as writer:
            for part in parts:
                data = target.read(f"{FRAGMENTS}/{part.name}.parquet")
                table = read_parquet(pa.BufferReader(data)).replace_schema_metadata({METADATA: told})
                if part.rows:
                    writer.write_table(table, row_group_size=part.rows)

    return {RECIPE: write}


def _describe(parts: Sequence[Part]) -> dict[str, Any]:
    store = parts[0].store
    manifest = read_manifest(store)
    taken = Takedowns.read(store)
    return {
        "source": manifest.source,
        "identity": dict(manifest.identity),
        "identity_hash": manifest.identity_hash,
        "n": manifest.n,
        "shard_size": manifest.shard_size,
        "max_attempts": manifest.max_attempts,
        "schema_version": manifest.schema_version,
        "data_version": manifest.data_version,
        "shards": [
            [part.done.shard, part.done.start, part.done.stop, part.done.max_attempts, part.rows] for part in parts
        ],
        "takedown": sorted(taken.keys),
    }
