"""How soon the pages of `humansd inspect --serve` come on a made-up dataset of a million samples.

    python -m tests.bench.test_serve_speed [--rows 1000000]

The index has all its columns; the first shard has images, of the others there are the ledger and the done marker.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import tempfile
import time
from pathlib import Path
from typing import Final
from urllib.parse import urlencode

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipelines import dataset, record, shards
from pipelines.record import LedgerRow
from pipelines.store import Store
from pipelines.work import ShardResult
from tests.bench.report import median, table, write
from tests.pipelines.inspect.served import Client, served
from tests.pipelines.small_dataset import ledger_row, sample
from tests.pipelines.test_dataset import MANIFEST

SHARD: Final = 1000
REJECTED: Final = 300
"""Of each shard."""
DRAWN: Final = 400
"""Different samples that the rows repeat, with keys, captions and scores of their own."""
ROUNDS: Final = 5
BAR: Final = 1.0


@pytest.mark.bench
def test_the_first_page_of_a_million_samples_comes_within_a_second() -> None:
    assert main(1_000_000) < BAR


def make(out: Path, rows: int) -> None:
    """Write the dataset."""
    rng = np.random.default_rng(0)
    store, manifest = Store(str(out)), dataclasses.replace(MANIFEST, n=rows, shard_size=SHARD)
    dataset.write_manifest(store, manifest, {}, "run")
    drawn = [sample("0" * 64, slot, 1) for slot in range(DRAWN)]
    rejects = [dataclasses.replace(ledger_row(one, 0), measured={"people": 0.0, "nsfw": 0.01}) for one in drawn]
    first = [
        dataclasses.replace(drawn[slot % DRAWN], key=key_of(slot), image=large(drawn[slot % DRAWN].image))
        for slot in range(SHARD)
    ]
    done = shards.commit(store, manifest.task(0), ShardResult(accepted=first), manifest.identity_hash, "run")
    for index in range(rows // SHARD):
        ledger: list[LedgerRow] = [
            dataclasses.replace(rejects[slot % DRAWN], key=f"{key_of(slot)}-{index}", shard=index)
            for slot in range(REJECTED)
        ]
        store.write(shards.table_name("ledger", index), parquet(record.ledger_to_table(ledger)), "run", durable=False)
        marker = json.dumps(dataclasses.asdict(dataclasses.replace(done, shard=index))).encode()
        store.write(shards.done_name(index), marker, "run", durable=False)
    write_index(out / dataset.INDEX, record.samples_to_table(drawn).drop_columns(["image"]), rows, rng)


def key_of(slot: int) -> str:
    """The key of a row."""
    return f"ghi-00000000-{slot}"


def large(image: bytes | None) -> bytes:
    """A sample's picture with 512 pixels a side, as JPEG."""
    buffer = io.BytesIO()
    Image.open(io.BytesIO(image or b"")).convert("RGB").resize((512, 512)).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def parquet(rows: pa.Table) -> memoryview:
    """A table as a file."""
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink, compression="zstd", row_group_size=record.ROW_GROUP_ROWS)
    return memoryview(sink.getvalue())


def write_index(file: Path, drawn: pa.Table, rows: int, rng: np.random.Generator) -> None:
    """Write an index of so many rows, a row group at a time."""
    writer: pq.ParquetWriter | None = None
    for start in range(0, rows, dataset.INDEX_GROUP_ROWS):
        slots = np.arange(start, min(start + dataset.INDEX_GROUP_ROWS, rows))
        group = drawn.take(pa.array(rng.integers(0, DRAWN, len(slots))))
        captions = group["caption"].to_pylist()
        own = {
            "key": [key_of(slot) for slot in slots],
            "caption": [f"{text}, number {slot}" for text, slot in zip(captions, slots, strict=True)],
            "clip_score": rng.normal(25, 3, len(slots)).astype(np.float32),
            "nsfw": rng.random(len(slots)).astype(np.float32),
            "phash": rng.integers(0, 2**63, len(slots)).astype(np.uint64),
        }
        for name, values in own.items():
            field = group.schema.field(name)
            group = group.set_column(group.schema.get_field_index(name), field, pa.array(values, field.type))
        for name, values in (("shard", slots // SHARD), ("row", slots % SHARD)):
            group = group.append_column(name, pa.array(values, pa.int32()))
        writer = writer or pq.ParquetWriter(file, group.schema, compression="zstd")
        writer.write_table(group)
    assert writer is not None
    writer.close()


def pages(rows: int) -> dict[str, str]:
    """What is asked for."""
    return {
        "first page": "/accepted",
        "last page": f"/accepted?page={rows}",
        "one scene": "/accepted?scene=mural",
        "two people, a range of CLIP scores": "/accepted?people=2&clip_score_low=24&clip_score_high=26",
        "a frequent word of captions": "/accepted?text=painting",
        "a rare one": f"/accepted?text={rows // 2}",
        "first page of the rejected": "/rejected",
        "one reason": f"/rejected?{urlencode({'why': 'people_count: too_few'})}",
    }


def seconds(client: Client, path: str) -> float:
    """How long an answer takes."""
    began = time.perf_counter()
    answer = client.get(path)
    took = time.perf_counter() - began
    assert answer.status == 200
    return took


def main(rows: int) -> float:
    """Run and write the results; return the seconds of a first page."""
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), rows)
        size = Path(folder, dataset.INDEX).stat().st_size
        taken: dict[str, list[float]] = {"opening the dataset": []}
        for _ in range(ROUNDS):  # each a server of its own, which has nothing in memory yet
            began = time.perf_counter()
            with served(folder) as client:
                taken["opening the dataset"].append(time.perf_counter() - began)
                for name, path in pages(rows).items():
                    taken.setdefault(name, []).append(seconds(client, path))
                thumbnails = client.get("/accepted").linked("/thumbnail?")
                taken.setdefault(f"{len(thumbnails)} thumbnails, one after the other", []).append(
                    sum(seconds(client, path) for path in thumbnails)
                )
    write(
        "serve",
        f"Pages of `humansd inspect --serve` on {rows:,} samples",
        f"A made-up dataset: an index of {size / 1e6:,.0f} MB with all its columns, {rows // SHARD:,} ledgers of "
        f"{REJECTED} rows each, images of 512 pixels in the first shard. Median of {ROUNDS} servers, each asked in "
        "this order; the files are in the system's cache. Pages hold 24 samples and say how many match.",
        table(("what", "seconds"), [(name, f"{median(values):.2f}") for name, values in taken.items()]),
    )
    return median(taken["first page"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    print(f"{main(parser.parse_args().rows):.2f}")
