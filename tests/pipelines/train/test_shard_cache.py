"""Copies of remote shards: fetched once, bounded, never stale, whole even after a kill."""

from __future__ import annotations

import hashlib
import itertools
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipelines.config import UserError
from pipelines.store import Store
from pipelines.takedown import take_down
from pipelines.taken import Entry
from pipelines.train.data import PoseShards
from pipelines.train.listing import ShardRows, list_shards
from pipelines.train.shard_cache import ChangedShardError, ShardCache
from tests.pipelines.disks import small_disk
from tests.pipelines.small_dataset import write_dataset


class CountedStore(Store):
    """Counts what is fetched."""

    fetched = 0

    def read(self, name: str) -> bytes:
        self.fetched += 1
        time.sleep(0.02)
        return super().read(name)


def files(folder: Path, count: int, size: int = 1000) -> tuple[CountedStore, list[tuple[str, ShardRows]]]:
    folder.mkdir()
    found = []
    for index in range(count):
        data = bytes([index]) * size
        (folder / str(index)).write_bytes(data)
        found.append((str(index), ShardRows(index, 1, hashlib.sha256(data).hexdigest(), size)))
    return CountedStore(str(folder)), found


def copies(folder: Path) -> set[str]:
    return {path.stem for path in folder.glob("*.parquet")}


def test_a_full_disk_is_told_and_is_no_fault_of_the_shard(tmp_path: Path) -> None:
    store, shards = files(tmp_path / "far", 1, 200_000)
    with (
        small_disk(tmp_path / "near", "64k") as near,
        pytest.raises(UserError, match="No space left on device; HUMANSD_CACHE names another folder"),
    ):
        ShardCache(near / "shards").open(store, *shards[0])


def test_a_shard_is_fetched_once_however_many_ask_at_once(tmp_path: Path) -> None:
    store, shards = files(tmp_path / "far", 2)
    cache = ShardCache(tmp_path / "near")

    def read(number: int) -> bytes:
        name, shard = shards[number % 2]
        with cache.open(store, name, shard) as file:
            return file.read()

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(read, range(16))) == [bytes([number % 2]) * 1000 for number in range(16)]
    assert store.fetched == 2


def test_the_copies_used_longest_ago_go_first(tmp_path: Path) -> None:
    store, shards = files(tmp_path / "far", 4)
    cache = ShardCache(tmp_path / "near", limit=3500)
    for age, (name, shard) in zip((30, 20, 10), shards, strict=False):
        cache.open(store, name, shard).close()
        stamp = time.time() - age
        os.utime(cache.folder / f"{shard.sha256}.parquet", (stamp, stamp))
    cache.open(store, *shards[0]).close()  # used again
    reading = cache.open(store, *shards[1])
    os.utime(cache.folder / f"{shards[1][1].sha256}.parquet", (1, 1))
    cache.open(store, *shards[3]).close()
    assert copies(cache.folder) == {shards[number][1].sha256 for number in (0, 2, 3)}
    assert reading.read() == b"\1" * 1000  # whoever reads it reads on
    reading.close()


def test_other_bytes_than_the_done_markers_are_refused(tmp_path: Path) -> None:
    store, shards = files(tmp_path / "far", 1)
    (tmp_path / "far" / "0").write_bytes(b"other")
    cache = ShardCache(tmp_path / "near")
    with pytest.raises(ChangedShardError):
        cache.open(store, *shards[0])
    assert not copies(cache.folder)


def test_a_kill_while_fetching_leaves_nothing_in_the_way(tmp_path: Path) -> None:
    store, shards = files(tmp_path / "far", 1)
    code = f"""
import time
from pathlib import Path
from pipelines.config import UserError
from pipelines.store import Store
from pipelines.train.listing import ShardRows
from pipelines.train.shard_cache import ShardCache
cache = ShardCache({str(tmp_path / "near")!r})
def stall(self, data):
    open(self, "wb").write(data[:100])
    print("half", flush=True)
    time.sleep(60)
Path.write_bytes = stall
cache.open(Store({store.root!r}), "0", {shards[0][1]!r})
"""
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"half\n"
    child.kill()
    child.wait()
    with ShardCache(tmp_path / "near").open(store, *shards[0]) as file:
        assert file.read() == bytes(1000)


@pytest.fixture(scope="module")
def far(s3: str) -> str:
    write_dataset(f"{s3}/trained", 3)
    return f"{s3}/trained"


def keys(shards: PoseShards, n: int) -> list[str]:
    return [sample["key"] for sample in itertools.islice(shards, n)]


def test_remote_datasets_come_through_the_cache_and_what_was_taken_down_does_not(far: str, tmp_path: Path) -> None:
    write_dataset(tmp_path / "same", 3)
    cache = ShardCache(tmp_path / "near")
    kept = list_shards([far])
    drawn = keys(PoseShards(kept, 64, 1, 0, augment=None, cache=cache), 22)
    assert drawn == keys(PoseShards([str(tmp_path / "same")], 64, 1, 0, augment=None), 22)
    assert len(copies(cache.folder)) == 3
    take_down(far, [Entry("key", drawn[0])])
    after = keys(PoseShards(kept, 64, 1, 0, augment=None, cache=cache), 22)
    assert drawn[0] not in after
    assert set(after) == set(drawn) - {drawn[0]}
