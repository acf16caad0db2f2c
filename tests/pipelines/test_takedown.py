"""`humansd takedown`: gone from every file, for good, whatever is made, grown, repaired or killed afterwards."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pipelines import dataset, lease, shards
from pipelines.annotate import Annotation
from pipelines.cli import main
from pipelines.config import UserError
from pipelines.export.job import run_export
from pipelines.store import Store
from pipelines.takedown import take_down
from pipelines.taken import LIST, STAGE, Takedowns, parse
from pipelines.work import ShardContext
from tests.pipelines.jobs import ROOT, SHARD_SIZE, keys, make, tables, wait_for
from tests.pipelines.small_dataset import add_columns, write_dataset
from tests.pipelines.toy import HASH, fill_slots, sample_key

ANNOTATION = Annotation("tests.pipelines.annotations:sizes", "sizes")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Three shards of four, with rejected candidates."""
    write_dataset(tmp_path / "out", 3)
    return tmp_path / "out"


def rows(out: Path, folder: str, index: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = shards.read_table(Store(str(out)), folder, index).to_pylist()
    return found


def rows_of(out: Path, key: str) -> dict[str, int]:
    found = dict.fromkeys(shards.FOLDERS, 0)
    for name in tables(out):
        folder = name.partition("/")[0]
        if folder in found:
            found[folder] += [row["key"] for row in rows(out, folder, int(name[-16:-8]))].count(key)
    return found


def test_a_key_goes_from_every_file_and_nothing_else_changes(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset.write_index(str(out))
    before, (first, key, *_) = tables(out), keys(out)
    row = rows(out, "shards", 0)[1]
    image, caption = row["image"]["bytes"], row["caption"]
    assert main(["takedown", str(out), "--key", key, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"key": key, "shard": 0, "matched": []}
    assert rows_of(out, key) == {"shards": 0, "rejected": 0, "ledger": 1}
    after = tables(out)
    assert {name for name in before if after[name] != before[name]} == {
        f"{folder}/00000000.parquet" for folder in shards.FOLDERS
    }
    for path in out.rglob("*"):
        assert path.is_dir() or image not in path.read_bytes()
    (row,) = [row for row in rows(out, "ledger", 0) if row["key"] == key]
    assert (row["stage"], row["reason"], row["caption"], row["url"]) == (STAGE, "removed", None, None)
    assert caption not in [row["caption"] for row in rows(out, "ledger", 0)]
    index = pd.read_parquet(out / "index.parquet")
    dataset.write_index(str(out))
    pd.testing.assert_frame_equal(index, pd.read_parquet(out / "index.parquet"))
    assert first in set(index["key"])
    assert list(dataset.verify(str(out))) == []
    done = shards.read_markers(Store(str(out)))
    assert [marker.accepted for marker in done] == [3, 3, 4]


def test_again_changes_nothing_and_what_is_not_there_is_named_and_noted(
    out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = keys(out)[0]
    assert main(["takedown", str(out), "--key", key]) == 0
    files = {path: path.read_bytes() for path in out.rglob("*.*") if path.is_file()}
    assert main(["takedown", str(out), "--key", key]) == 0
    assert {path: path.read_bytes() for path in out.rglob("*.*") if path.is_file()} == files
    capsys.readouterr()
    assert main(["takedown", str(out), "--key", key, "--key", "ghi-00000000-9", "--url", "http://x/y"]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert "not there: key ghi-00000000-9: noted" in told.err
    assert "not there: url http://x/y: noted" in told.err
    taken = Takedowns.read(Store(str(out)))
    assert taken.keys == {key, "ghi-00000000-9"}
    assert taken.urls == {"http://x/y"}


def test_a_dry_run_lists_and_changes_nothing(out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = keys(out)[2:7]
    (tmp_path / "requests.txt").write_text("# who asked\n" + "\n".join([*wanted, "", "nobody"]))
    files = sorted(out.rglob("*"))
    before = tables(out)
    assert main(["takedown", str(out), "--keys", str(tmp_path / "requests.txt"), "--dry-run"]) == 1
    assert [line.split()[2] for line in capsys.readouterr().out.splitlines()] == sorted(wanted)
    assert (tables(out), sorted(out.rglob("*"))) == (before, files)


def test_an_image_goes_by_its_hash_with_its_copies(out: Path) -> None:
    row = rows(out, "shards", 2)[3]
    digest = hashlib.sha256(row["image"]["bytes"]).hexdigest()
    report = take_down(str(out), parse(hashes=[digest.upper()]))
    assert [(match.key, match.matched) for match in report.removed] == [(row["key"], [digest])]
    assert report.exit_code == 0
    assert take_down(str(out), parse(hashes=[digest])).exit_code == 0
    assert rows_of(out, row["key"])["shards"] == 0


def test_added_columns_of_the_shard_are_dropped_and_made_anew(out: Path) -> None:
    add_columns(out, ANNOTATION)
    report = take_down(str(out), parse(keys=[keys(out)[0]]))
    assert report.columns == ["columns/sizes/00000000.parquet"]
    assert sorted(path.name[:8] for path in (out / "columns/sizes").glob("*.parquet")) == ["00000001", "00000002"]
    assert list(dataset.verify(str(out))) == []
    add_columns(out, ANNOTATION)
    assert pd.read_parquet(out / "columns/sizes/00000000.parquet")["key"].tolist() == keys(out)[:3]


@pytest.mark.parametrize("arguments", [[], ["--hash", "abc"], ["--keys", "nowhere.txt"]])
def test_mistakes_are_told(out: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["takedown", str(out), *arguments]) == 2
    assert "--" in capsys.readouterr().err


def test_nothing_is_taken_down_while_a_driver_works(out: Path) -> None:
    held = lease.acquire(Store(str(out)), range(1), lease.new_run())
    with closing(held), pytest.raises(UserError, match="another driver"):
        take_down(str(out), parse(keys=keys(out)[:1]))
    assert not (out / LIST).exists()


@pytest.mark.usefixtures("in_process")
def test_growth_repair_and_a_list_written_beforehand_give_the_same_bytes(tmp_path: Path) -> None:
    """The slots 1 (early), 9 (in the shard that grows) and 17 (not made yet)."""
    once, grown, before = (tmp_path / name for name in ("once", "grown", "before"))
    asked = parse(keys=[sample_key(slot) for slot in (1, 9, 17)])
    make(once, n=20, max_attempts=4)
    assert take_down(str(once), asked).exit_code == 0
    make(grown, n=10, max_attempts=1)
    report = take_down(str(grown), asked)
    assert [entry.value for entry in report.missing] == [sample_key(17)]
    make(before, n=1, max_attempts=4)
    take_down(str(before), asked)
    for out in (grown, before):
        made = make(out, n=20, max_attempts=4)
        assert not {sample_key(slot) for slot in (1, 9, 17)} & {*keys(out), *made.short}
        assert tables(out) == tables(once)
    for name in ("shards/00000000.parquet", "ledger/00000004.parquet"):
        (once / name).write_bytes(b"damaged")
    assert dataset.repair(str(once))
    make(once, n=20, max_attempts=4)
    assert tables(once) == tables(grown)
    assert list(dataset.verify(str(once))) == []
    assert make(once, n=20, max_attempts=4).shards_done == 0  # nothing is short for what was taken down


def many_shards(out: Path, count: int) -> None:
    manifest = dataset.Manifest("toy", HASH, {}, count * SHARD_SIZE, SHARD_SIZE, 8, {})
    store = Store(str(out))
    dataset.write_manifest(store, manifest, {}, "run")
    for index in manifest.shards:
        task = manifest.task(index)
        shards.commit(store, task, fill_slots(ShardContext(task), lambda name: None), HASH, "run")


def test_killed_between_list_and_last_shard_the_same_command_finishes(tmp_path: Path) -> None:
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    count = 40
    many_shards(straight, count)
    shutil.copytree(straight, killed)
    wanted = [sample_key(index * SHARD_SIZE + 1) for index in range(count)]
    (tmp_path / "keys.txt").write_text("\n".join(wanted))
    arguments = ["takedown", str(killed), "--keys", str(tmp_path / "keys.txt")]
    driver = subprocess.Popen([sys.executable, "-m", "pipelines", *arguments], cwd=ROOT, text=True)
    assert wait_for(lambda: (killed / LIST).exists(), driver)
    driver.kill()
    driver.wait()
    assert set(wanted) & set(keys(killed)), "it ended before it was killed"
    run_export([str(killed)], "coco", str(tmp_path / "coco"))  # what is not removed yet does not go out either
    exported = json.loads((tmp_path / "coco/annotations.json").read_text())
    assert not {image["key"] for image in exported["images"]} & set(wanted)
    assert main(arguments) in (0, 1)
    main(["takedown", str(straight), "--keys", str(tmp_path / "keys.txt")])
    mine, theirs = tables(killed), tables(straight)
    lost = {name.rpartition("/")[2] for name in theirs if mine.get(name) != theirs[name]}
    assert len(lost) <= 1  # the shard that was being swapped, which the job makes anew
    assert list(dataset.verify(str(killed))) == []
    assert not set(wanted) & set(keys(killed))


def test_a_shard_that_does_not_match_its_marker_is_dropped_and_told(
    out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = out / "shards/00000001.parquet"
    path.write_bytes(path.read_bytes()[:-10])
    (out / "rejected/00000007.parquet").write_bytes(b"never committed")
    (out / "shards/.00000001.parquet.r.tmp").write_bytes(b"cut off")
    assert main(["takedown", str(out), "--key", rows(out, "shards", 0)[0]["key"]]) == 1
    assert "shards/00000001.parquet: does not match its done marker: dropped; run the job again" in (
        capsys.readouterr().err
    )
    assert list(dataset.verify(str(out))) == []
