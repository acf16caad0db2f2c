"""Shards against img2dataset's Parquet writer and webdataset's tar writer, on the same bytes.

    python -m tests.bench.test_shard_speed [--rows 1000] [--rounds 7]

Needs the extra `laion` (img2dataset) and the group `dev` (webdataset).
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import shards
from pipelines.record import Sample
from pipelines.store import Store
from pipelines.work import ShardResult, ShardTask
from tests.bench.report import interleaved, median, table, write
from tests.pipelines.toy import HASH, make_sample

IMAGE_BYTES = 60_000


@pytest.mark.bench
def test_shards_beside_the_others() -> None:
    main(rows=1000, rounds=7)


def write_ours(folder: Path, samples: list[Sample]) -> None:
    task = ShardTask(0, 0, len(samples), 1)
    shards.commit(Store(str(folder)), task, ShardResult(accepted=samples), HASH, "bench")


def write_img2dataset(folder: Path, samples: list[Sample], durable: bool) -> None:
    from img2dataset.writer import ParquetSampleWriter

    schema = pa.schema([("key", pa.string()), ("txt", pa.string()), ("width", pa.int32()), ("height", pa.int32())])
    writer = ParquetSampleWriter(0, str(folder), True, 5, schema, "jpg")
    for sample in samples:
        writer.write(sample.image, sample.key, sample.caption, {"width": sample.width, "height": sample.height})
    writer.close()
    if durable:
        sync(folder)


def write_webdataset(folder: Path, samples: list[Sample], durable: bool) -> None:
    import webdataset

    with webdataset.TarWriter(str(folder / "00000.tar")) as writer:
        for sample in samples:
            meta = {"width": sample.width, "height": sample.height}
            writer.write({"__key__": sample.key, "jpg": sample.image, "txt": sample.caption, "json": meta})
    if durable:
        sync(folder)


def sync(folder: Path) -> None:
    for path in [*folder.iterdir(), folder]:
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)


def read_ours(folder: Path) -> int:
    reader = pq.ParquetFile(folder / "shards/00000000.parquet")
    total = 0
    for batch in reader.iter_batches(100, columns=["key", "image", "caption"]):
        for row in batch.to_pylist():
            total += len(row["image"]["bytes"])
    return total


def read_img2dataset(folder: Path) -> int:
    reader = pq.ParquetFile(folder / "00000.parquet")
    total = 0
    for batch in reader.iter_batches(100, columns=["key", "jpg", "txt"]):
        for row in batch.to_pylist():
            total += len(row["jpg"])
    return total


def read_webdataset(folder: Path) -> int:
    import webdataset

    return sum(len(row["jpg"]) for row in webdataset.WebDataset(str(folder / "00000.tar"), shardshuffle=False))


def main(rows: int, rounds: int) -> None:
    """Run both comparisons and write results/shards.md."""
    pytest.importorskip("img2dataset")
    pytest.importorskip("webdataset")
    rng = np.random.default_rng(0)
    sizes = rng.integers(IMAGE_BYTES // 2, 3 * IMAGE_BYTES // 2, rows)
    samples = [make_sample(index, 1, int(size)) for index, size in enumerate(sizes)]
    megabytes = sum(sizes) / 1e6
    writers: dict[str, Callable[[Path, list[Sample]], None]] = {
        "ours (fsync, sha256, done marker)": write_ours,
        "img2dataset Parquet": partial(write_img2dataset, durable=False),
        "img2dataset Parquet, then fsync": partial(write_img2dataset, durable=True),
        "webdataset tar": partial(write_webdataset, durable=False),
        "webdataset tar, then fsync": partial(write_webdataset, durable=True),
    }
    with tempfile.TemporaryDirectory() as root:
        folders = {name: Path(root) / str(number) for number, name in enumerate(writers)}

        def rewrite(name: str) -> None:
            shutil.rmtree(folders[name], ignore_errors=True)
            folders[name].mkdir()
            writers[name](folders[name], samples)

        written = interleaved({name: partial(rewrite, name) for name in writers}, rounds)
        readers = {
            "ours": partial(read_ours, folders["ours (fsync, sha256, done marker)"]),
            "img2dataset Parquet": partial(read_img2dataset, folders["img2dataset Parquet"]),
            "webdataset tar": partial(read_webdataset, folders["webdataset tar"]),
        }
        assert {run() for run in readers.values()} == {int(sum(sizes))}
        read = interleaved(readers, rounds)
    parts = [f"{rows} images, {megabytes:.0f} MB, one shard, one thread; median of {rounds} interleaved rounds."]
    for title, seconds in (("Write", written), ("Read (warm page cache)", read)):
        medians = {
            name: (median([run.wall for run in runs]), median([run.cpu for run in runs]))
            for name, runs in seconds.items()
        }
        ours = next(iter(medians.values()))
        lines = [
            [
                name,
                f"{wall:.3f}",
                f"{cpu:.3f}",
                f"{rows / wall:,.0f}",
                f"{megabytes / wall:,.0f}",
                f"{wall / ours[0]:.2f}",
                f"{cpu / ours[1]:.2f}",
            ]
            for name, (wall, cpu) in medians.items()
        ]
        head = ["", "s", "CPU s", "images/s", "MB/s", "ours is so many times faster", "by CPU time"]
        parts += [f"## {title}", table(head, lines)]
    write("shards", "Shard write and read", *parts)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=7)
    main(**vars(parser.parse_args()))
