"""One shard on disk: committed whole, read back exactly, and never half believed."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipelines import shards
from pipelines.record import LedgerRow, Rejected
from pipelines.store import Store
from pipelines.work import ShardResult, ShardTask
from tests.pipelines.toy import HASH, make_sample

TASK = ShardTask(3, 12, 16, 4)


def a_result() -> ShardResult:
    return ShardResult(
        accepted=[make_sample(12, 1), make_sample(14, 2)],
        rejected=[Rejected(make_sample(14, 1), "gate", "coin", 1)],
        ledger=[LedgerRow("toy-01234567-14", 3, 1, "gate", "coin", {"coin": 0.5})],
        seconds={"sample": 1.5, "total": 2.0},
        counts={"sampled": 3},
        short=["toy-01234567-13", "toy-01234567-15"],
    )


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return Store(str(tmp_path / "out") if request.param == "local" else f"memory://{tmp_path.name}/out")


@pytest.mark.parametrize("chosen", ["mimalloc", "system"])
def test_arrow_keeps_its_memory_unless_told_otherwise(chosen: str) -> None:
    code = "import pipelines, pyarrow; print(pyarrow.default_memory_pool().backend_name)"
    variables = {name: value for name, value in os.environ.items() if name != "ARROW_DEFAULT_MEMORY_POOL"}
    if chosen != "mimalloc":
        variables["ARROW_DEFAULT_MEMORY_POOL"] = chosen
    told = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=True)
    assert told.stdout.strip() == chosen


def test_a_committed_shard_has_three_tables_and_a_marker(store: Store) -> None:
    done = shards.commit(store, TASK, a_result(), HASH, "run")
    assert shards.done_indices(store) == [3]
    assert shards.done_indices(store, range(3)) == []
    assert list(shards.read_markers(store)) == [done]
    assert (done.accepted, done.rejected, done.short) == (2, 1, ("toy-01234567-13", "toy-01234567-15"))
    assert shards.read_table(store, "shards", 3, ["key"])["key"].to_pylist() == ["toy-01234567-12", "toy-01234567-14"]
    for folder, info in done.files.items():
        assert store.size(f"{folder}/00000003.parquet") == info.bytes


def test_a_shard_reads_back_as_it_was(store: Store) -> None:
    result = a_result()
    back = shards.read_back(store, shards.commit(store, TASK, result, HASH, "run"))
    assert back is not None
    assert (back.ledger, back.seconds, back.counts, back.short) == (
        result.ledger,
        result.seconds,
        result.counts,
        result.short,
    )
    again = shards.commit(store, TASK, back, HASH, "another run")
    first = shards.commit(store, TASK, result, HASH, "run")
    assert again.files == first.files


def test_nothing_of_the_run_is_in_the_tables(store: Store) -> None:
    result = a_result()
    one = shards.commit(store, TASK, result, HASH, "run")
    two = shards.commit(store, TASK, dataclasses.replace(result, seconds={"total": 99.0}), HASH, "other")
    assert one.files == two.files


@pytest.mark.parametrize("folder", shards.FOLDERS)
def test_a_shard_whose_files_do_not_match_is_not_read_back(store: Store, folder: str) -> None:
    done = shards.commit(store, TASK, a_result(), HASH, "run")
    name = shards.table_name(folder, 3)
    store.write(name, store.read(name) + b"x", "run")
    assert shards.read_back(store, done) is None
    store.remove([name])
    assert shards.read_back(store, done) is None


def test_an_unreadable_marker_does_not_count(store: Store) -> None:
    shards.commit(store, TASK, a_result(), HASH, "run")
    no_files = json.dumps({**json.loads(store.read("done/00000003.json")), "files": {}}).encode()
    for data in (b"", b"{", b"[]", b'{"shard": 3}', no_files):
        store.write("done/00000003.json", data, "run")
        assert list(shards.read_markers(store)) == []


def test_a_key_twice_in_a_shard_is_refused(store: Store) -> None:
    result = dataclasses.replace(a_result(), accepted=[make_sample(12, 1), make_sample(12, 2)])
    with pytest.raises(ValueError, match="toy-01234567-12 twice"):
        shards.commit(store, TASK, result, HASH, "run")
    assert shards.done_indices(store) == []


def test_image_bytes_are_stored_as_they_are_and_all_else_compressed(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    shards.commit(store, TASK, a_result(), HASH, "run")
    group = pq.read_metadata(tmp_path / "shards/00000003.parquet").row_group(0)
    codecs = {group.column(i).path_in_schema: group.column(i).compression for i in range(group.num_columns)}
    assert codecs.pop("image.bytes") == "UNCOMPRESSED"
    assert set(codecs.values()) == {"ZSTD"}


def test_a_process_may_end_right_after_reading(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    shards.commit(store, TASK, a_result(), HASH, "run")
    script = (
        "import sys; from pipelines import shards; from pipelines.store import Store\n"
        "store = Store(sys.argv[1]); (done,) = shards.read_markers(store)\n"
        "assert shards.read_back(store, done); shards.read_table(store, 'ledger', 3)\n"
    )
    for _ in range(3):
        subprocess.run([sys.executable, "-c", script, store.root], check=True)
