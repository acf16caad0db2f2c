"""A dataset as a whole: identity, growth, reading several as one, verify and repair."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

from pipelines import dataset, lease, shards
from pipelines.config import UserError
from pipelines.dataset import Manifest, Problem
from pipelines.store import Store
from pipelines.work import ShardContext
from tests.pipelines.toy import fill_slots

MANIFEST = Manifest("toy", "ab" * 32, {"seed": 1, "sampler.steps": 20}, 20, 8, 3, {"n": 20})


def make(out: Path, manifest: Manifest = MANIFEST) -> Store:
    """Make or grow a dataset without Ray."""
    store = Store(str(out))
    if dataset.check_manifest(store, manifest):
        dataset.write_manifest(store, manifest, {"README.md": b"# toy"}, "run")
    for task in dataset.standing(manifest, manifest.shards, shards.read_markers(store)).tasks:
        marker = next(shards.read_markers(store, range(task.index, task.index + 1)), None)
        context = ShardContext(task, shards.read_back(store, marker) if marker else None)
        shards.commit(store, task, fill_slots(context, lambda name: None), manifest.identity_hash, "run")
    return store


def tables(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.glob("*/*.parquet"))}


def test_the_manifest_is_written_once_and_read_back(tmp_path: Path) -> None:
    store = make(tmp_path)
    assert dataset.read_manifest(store) == MANIFEST
    assert not dataset.check_manifest(store, MANIFEST)
    assert (tmp_path / "README.md").read_text() == "# toy"
    assert dataset.check_manifest(store, dataclasses.replace(MANIFEST, n=21))


def test_another_identity_is_refused_with_the_difference_and_what_to_do(tmp_path: Path) -> None:
    store = make(tmp_path)
    other = dataclasses.replace(MANIFEST, identity={"seed": 1, "sampler.steps": 25}, identity_hash="cd" * 32)
    with pytest.raises(UserError, match=r"sampler\.steps: 20 -> 25.*another --out"):
        dataset.check_manifest(store, other)
    with pytest.raises(UserError, match="data_version: 1 -> 2"):
        dataset.check_manifest(store, dataclasses.replace(MANIFEST, data_version=2))
    with pytest.raises(UserError, match="shard_size: 8 -> 16"):
        dataset.check_manifest(store, dataclasses.replace(MANIFEST, shard_size=16))


def test_a_folder_in_which_nothing_was_committed_takes_another_identity(tmp_path: Path) -> None:
    store = make(tmp_path)
    other = dataclasses.replace(MANIFEST, identity={"seed": 2}, identity_hash="cd" * 32, n=5)
    with pytest.raises(UserError, match="another identity"):
        dataset.check_manifest(store, other)
    store.remove(shards.done_name(index) for index in shards.done_indices(store))
    assert dataset.check_manifest(store, other)
    assert dataset.check_manifest(store, dataclasses.replace(MANIFEST, n=5))
    store.write("raw/00000000.parquet", b"another stage's work", "run")
    with pytest.raises(UserError, match="another identity"):
        dataset.check_manifest(store, other)
    with pytest.raises(UserError, match="n can only grow"):
        dataset.check_manifest(store, dataclasses.replace(MANIFEST, n=5))


@pytest.mark.parametrize("name", ["n", "max_attempts"])
def test_what_may_grow_may_not_shrink(tmp_path: Path, name: str) -> None:
    store = make(tmp_path)
    shrunk: dict[str, Any] = {name: 2}
    with pytest.raises(UserError, match=f"{name} can only grow: it is {getattr(MANIFEST, name)}, you asked for 2"):
        dataset.check_manifest(store, dataclasses.replace(MANIFEST, **shrunk))


def test_only_missing_partial_and_short_shards_are_to_do(tmp_path: Path) -> None:
    store = make(tmp_path, dataclasses.replace(MANIFEST, max_attempts=1))
    short = [done.shard for done in shards.read_markers(store) if done.short]
    assert short  # one attempt cannot fill every slot of the toy

    def to_do(**changes: Any) -> list[tuple[int, bool]]:
        wanted = dataclasses.replace(dataclasses.replace(MANIFEST, max_attempts=1), **changes)
        found = dataset.standing(wanted, wanted.shards, shards.read_markers(store))
        return [(task.index, task.extend) for task in found.tasks]

    assert to_do() == []
    assert to_do(max_attempts=2) == [(index, True) for index in short]
    assert to_do(n=24) == [(2, True)]
    assert to_do(n=25) == [(2, True), (3, False)]
    store.remove(["done/00000001.json"])
    assert to_do() == [(1, False)]


@pytest.mark.parametrize("steps", [[(5, 1), (20, 3)], [(20, 1), (20, 2), (20, 3)], [(17, 3), (19, 3), (20, 3)]])
def test_a_dataset_that_was_grown_equals_one_made_at_once(tmp_path: Path, steps: list[tuple[int, int]]) -> None:
    make(tmp_path / "once")
    for n, max_attempts in steps:
        make(tmp_path / "grown", dataclasses.replace(MANIFEST, n=n, max_attempts=max_attempts))
    assert tables(tmp_path / "grown") == tables(tmp_path / "once")


def test_the_index_has_every_column_but_the_image_and_finds_the_row(tmp_path: Path) -> None:
    store = make(tmp_path)
    rows = dataset.write_index(str(tmp_path))
    index = pd.read_parquet(tmp_path / "index.parquet")
    assert len(index) == rows == sum(done.accepted for done in shards.read_markers(store))
    assert "image" not in index
    assert {"key", "people", "shard", "row"} <= set(index.columns)
    last = index.iloc[-1]
    table = shards.read_table(store, "shards", int(last["shard"]))
    assert table["key"][int(last["row"])].as_py() == last["key"]


def test_the_index_joins_small_shards_to_large_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make(tmp_path, dataclasses.replace(MANIFEST, n=33))
    accepted = [done.accepted for done in shards.read_markers(store)]
    monkeypatch.setattr(dataset, "INDEX_GROUP_ROWS", sum(accepted[:3]))
    dataset.write_index(str(tmp_path))
    index = pq.ParquetFile(tmp_path / "index.parquet")
    rows = [index.metadata.row_group(group).num_rows for group in range(index.num_row_groups)]
    assert rows == [sum(accepted[:3]), sum(accepted[3:])]
    assert index.read()["shard"].to_pylist() == [shard for shard, n in enumerate(accepted) for _ in range(n)]


def test_a_folder_without_a_dataset_says_so(tmp_path: Path) -> None:
    for act in (dataset.write_index, dataset.repair, lambda out: list(dataset.verify(out))):
        with pytest.raises(UserError, match="holds no dataset"):
            act(str(tmp_path))


def _truncate(out: Path) -> None:
    path = out / "shards/00000001.parquet"
    path.write_bytes(path.read_bytes()[:-10])


def _flip(out: Path) -> None:
    path = out / "rejected/00000001.parquet"
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)


def _copy(out: Path) -> None:
    (out / "done/00000001.json").write_bytes((out / "done/00000000.json").read_bytes())


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut": (_truncate, "bytes, its done marker says"),
    "flipped": (_flip, "does not have the sha256"),
    "gone": (lambda out: (out / "ledger/00000001.parquet").unlink(), "is missing"),
    "marker": (lambda out: (out / "done/00000001.json").write_text("{"), "done"),
    "another's marker": (_copy, "belongs to another shard"),
    "uncommitted": (lambda out: (out / "done/00000001.json").unlink(), "never committed"),
    "left over": (lambda out: (out / "shards/.00000001.parquet.r.tmp").write_text("x"), "interrupted write"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_found_and_repaired_by_a_rerun(tmp_path: Path, damage: str) -> None:
    make(tmp_path)
    sound = tables(tmp_path)
    assert list(dataset.verify(str(tmp_path))) == []
    act, what = DAMAGES[damage]
    act(tmp_path)
    found = list(dataset.verify(str(tmp_path)))
    assert found
    assert all(isinstance(problem, Problem) and "00000001" in problem.file for problem in found)
    assert any(what in problem.what or what in problem.file for problem in found)
    assert dataset.repair(str(tmp_path)) == found
    assert list(dataset.verify(str(tmp_path))) == []
    make(tmp_path)
    assert tables(tmp_path) == sound


def test_nothing_is_repaired_while_a_driver_works(tmp_path: Path) -> None:
    store = make(tmp_path)
    _truncate(tmp_path)
    with closing(lease.acquire(store, range(1), lease.new_run())), pytest.raises(UserError, match="another driver"):
        dataset.repair(str(tmp_path))
    assert store.exists("shards/00000001.parquet")


def test_what_a_running_driver_writes_is_no_problem(tmp_path: Path) -> None:
    store = make(tmp_path)
    with closing(lease.acquire(store, range(1, 2), lease.new_run())):
        (tmp_path / "done/00000001.json").unlink()
        assert list(dataset.verify(str(tmp_path))) == []
        (tmp_path / "done/00000002.json").unlink()
        assert len(list(dataset.verify(str(tmp_path)))) == 3


def test_leftovers_are_cleaned_within_the_leased_range_only(tmp_path: Path) -> None:
    store = make(tmp_path)
    running = ".run/leases/running.json"
    ours = [".dataset.json.r.tmp", ".run/leases/.r.json.r.tmp"]
    others = ["done/.00000002.json.r.tmp", running, ".progress.json.running.tmp"]
    left = ["shards/.00000001.parquet.r.tmp", ".run/inflight/00000001.json", *ours, *others]
    for name in left:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    dataset.clean(store, range(2))
    assert [name for name in left if store.exists(name)] == others
    assert list(dataset.verify(str(tmp_path))) == []
