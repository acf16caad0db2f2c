"""Files that are there whole or not at all, on a local disk and on an object store."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.config import UserError
from pipelines.store import StorageError, Store, temporary_run
from tests.pipelines.disks import small_disk


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return Store(str(tmp_path / "out") if request.param == "local" else f"memory://{tmp_path.name}/out")


def test_files_are_written_read_listed_and_removed(store: Store) -> None:
    assert store.names("a") == []
    assert not store.exists("a/one")
    store.write("a/one", b"1", "run")
    store.write_all({"a/two": memoryview(b"22"), "b/three": b"333"}, "run")
    assert store.names("a") == ["one", "two"]
    assert [store.read("a/two"), store.size("b/three")] == [b"22", 3]
    assert dict(store.read_many(["a/one", "a/none", "b/three"])) == {"a/one": b"1", "b/three": b"333"}
    store.write("a/one", b"new", "run")
    assert store.read("a/one") == b"new"
    store.remove(["a/one", "a/none"])
    assert store.names("a") == ["two"]
    with pytest.raises(FileNotFoundError):
        store.read("a/one")


def test_touching_renews_the_time_and_never_makes_a_file(store: Store) -> None:
    assert store.modified("beat") is None
    with pytest.raises(FileNotFoundError):
        store.touch("beat")
    assert not store.exists("beat")
    store.write("beat", b"x", "run")
    before = store.modified("beat")
    store.touch("beat")
    after = store.modified("beat")
    assert before is not None
    assert after is not None
    assert after >= before
    assert store.read("beat") == b"x"


def test_a_write_that_fails_half_way_leaves_nothing_new(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.write("a/one", b"old", "run")
    (tmp_path / "b").write_text("a file where a folder should be")
    with pytest.raises(FileExistsError):
        store.write_all({"a/one": b"new", "b/two": b"2"}, "run")
    assert store.read("a/one") == b"old"
    assert store.names("a") == ["one"]


def test_a_killed_writer_leaves_only_a_temporary_file_that_names_its_run(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys; from pathlib import Path; from pipelines.store import Store\n"
        "Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "Store(sys.argv[1]).write('shards/00000003.parquet', b'x' * 1000, '20260101T000000-abcd')\n"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
    assert killed.returncode < 0
    (name,) = Store(str(tmp_path)).names("shards")
    assert name == ".00000003.parquet.20260101T000000-abcd.tmp"
    assert temporary_run(name) == "20260101T000000-abcd"
    assert temporary_run("00000003.parquet") is None


def test_a_small_disk_is_told_in_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    with small_disk(tmp_path / "small", "64k") as folder:
        store = Store(str(folder / "out"))
        with pytest.raises(StorageError, match="No space left on device") as caught:
            store.write("shards/00000000.parquet", b"x" * 100_000, "run")
        assert "\n" not in str(caught.value)
        assert store.names("shards") == []


def test_a_read_only_folder_is_told_in_one_line(tmp_path: Path) -> None:
    with (
        small_disk(tmp_path / "small", "64k", "ro") as folder,
        pytest.raises(StorageError, match="Read-only file system"),
    ):
        Store(str(folder)).write("dataset.json", b"{}", "run")


def test_a_scheme_that_is_not_there_is_the_user_s_mistake() -> None:
    with pytest.raises(UserError, match="nonsense"):
        Store("nonsense://bucket/x")
