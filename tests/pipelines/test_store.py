"""Files that are there whole or not at all, on a local disk and on an object store."""

from __future__ import annotations

import errno
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, BinaryIO

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.cli import main
from pipelines.config import UserError
from pipelines.store import StorageError, Store, UnreachableError, temporary_run
from tests.pipelines.disks import small_disk


@pytest.fixture(params=["local", "memory", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "s3":
        return Store(f"{request.getfixturevalue('s3')}/{tmp_path.name}/out [1]")
    return Store(str(tmp_path / "out") if request.param == "local" else f"memory://{tmp_path.name}/out [1]")


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


def test_what_writes_itself_is_there_whole_or_not_at_all(store: Store) -> None:
    def fail(file: BinaryIO) -> None:
        file.write(b"half")
        raise ValueError("the other half is missing")

    store.write_all({"a/one": lambda file: file.write(b"1")}, "run")
    with pytest.raises(ValueError, match="other half"):
        store.write_all({"a/two": lambda file: file.write(b"2"), "a/one": fail}, "run")
    assert store.read("a/one") == b"1"
    assert store.local is False or store.names("a") == ["one"]


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


@pytest.fixture
def forget_clients(s3: str) -> Iterator[Callable[[], None]]:
    """Forget this process's clients of S3, which know the endpoint and credentials of their start."""
    forget: Callable[[], None] = fsspec.get_filesystem_class("s3").clear_instance_cache
    yield forget
    forget()


def test_names_are_those_of_files_and_folders_and_no_placeholder(s3: str) -> None:
    store = Store(f"{s3}/placeholder")
    store.fs.pipe_file(store.path("done/"), b"")  # as consoles of object stores make a folder
    store.write("done/one", b"1", "run")
    assert store.names("done") == ["one"]


def test_what_is_removed_and_written_again_is_seen_at_once_by_all(s3: str) -> None:
    """No listing or file information is kept: other processes change the store."""
    store, other = Store(f"{s3}/fresh"), Store(f"{s3}/fresh")
    for turn in range(3):
        assert (store.exists("done/one"), store.names("done"), store.modified("done/one")) == (False, [], None)
        other.write("done/one", b"1" * turn, "run")
        assert (store.exists("done/one"), store.names("done")) == (True, ["one"])
        assert (store.read("done/one"), store.size("done/one")) == (b"1" * turn, turn)
        other.remove(["done/one"])


def test_an_object_of_many_parts_is_whole(s3: str) -> None:
    """From 100 MB on it is put in parts."""
    store = Store(f"{s3}/large")
    data = bytes(range(256)) * (101 * 2**20 // 256)
    store.write("shards/00000000.parquet", memoryview(data), "run")
    assert store.size("shards/00000000.parquet") == len(data)
    assert store.read("shards/00000000.parquet") == data


def test_of_a_large_object_only_the_columns_and_row_groups_wanted_are_fetched(
    s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(f"{s3}/columns")
    rng = np.random.default_rng(0)
    table = pa.table({"key": [f"{i}" for i in range(40)], "image": [rng.bytes(250_000) for _ in range(40)]})
    with store.fs.open(store.path("x.parquet"), "wb") as file:
        pq.write_table(table, file, row_group_size=10, use_dictionary=False)
    fetched: list[bytes] = []
    cat = store.fs._cat_file

    async def counting(*arguments: Any, **options: Any) -> bytes:
        data: bytes = await cat(*arguments, **options)
        fetched.append(data)
        return data

    monkeypatch.setattr(store.fs, "_cat_file", counting)
    with store.open_parquet("x.parquet", ["key"]) as file:
        assert pq.ParquetFile(file).read(columns=["key"])["key"] == table["key"]
    assert sum(map(len, fetched)) < 1_100_000  # about a megabyte is fetched to find the footer
    fetched.clear()
    with store.open_parquet("x.parquet", row_groups=[2]) as file:
        assert pq.ParquetFile(file).read_row_group(2) == table.slice(20, 10)
    assert sum(map(len, fetched)) < 3_700_000  # and the group's two and a half
    with store.open_parquet("x.parquet") as file:
        assert pq.ParquetFile(file).read() == table


def test_an_object_store_that_cannot_be_used_is_told_in_one_line(
    s3: str, forget_clients: Callable[[], None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(StorageError, match=r"^s3://none/x: The specified bucket does not exist \(a/one\)$"):
        Store("s3://none/x").write("a/one", b"1", "run")
    with closing(socket.create_server(("127.0.0.1", 0))) as nobody:
        port = nobody.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    forget_clients()
    store = Store("s3://bucket/x")
    for use in (store.read, store.exists, store.names, store.modified, lambda name: list(store.read_many([name]))):
        with pytest.raises(UnreachableError, match=r"^s3://bucket/x: Could not connect to the endpoint"):
            use("a/one")
    assert main(["status", "s3://bucket/x"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    forget_clients()
    assert main(["status", "s3://bucket/x"]) == 2
    assert "Unable to locate credentials" in capsys.readouterr().err


def test_a_store_with_patience_outlasts_an_outage(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(f"{s3}/outage", patience=20)
    put, failures = store.fs.pipe_file, [OSError(errno.EBUSY, "Please reduce your request rate"), TimeoutError()]

    def busy(*arguments: Any) -> Any:
        if failures:
            raise failures.pop()
        return put(*arguments)

    monkeypatch.setattr(store.fs, "pipe_file", busy)
    store.write("done/one", b"1", "run")
    assert store.read("done/one") == b"1"
