"""What all formats have in common: resuming, growing, takedowns, poses, several datasets, object stores."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines import cli, dataset, lease, shards
from pipelines.annotate import Annotation
from pipelines.export.job import FORMATS
from pipelines.record import table_to_samples
from pipelines.store import Store
from pipelines.taken import Takedowns, parse
from pipelines.work import ShardResult
from tests.pipelines.small_dataset import add_columns, write_dataset

TO = ["coco", "webdataset", "hf", "humansd-layout", "recipe"]


def export(*outs: Path | str, to: str = "webdataset", out: Path | str, more: tuple[str, ...] = ()) -> int:
    return cli.main(["export", *map(str, outs), "--to", to, "--out", str(out), *more])


def files(folder: Path) -> dict[str, bytes]:
    """Everything but bookkeeping."""
    found = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(p.relative_to(folder)): p.read_bytes() for p in found if ".export" not in p.parts}


def times(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def text(folder: Path) -> bytes:
    """All bytes, whatever they are, to look for a key in."""
    return b"".join([*files(folder).values(), *(name.encode() for name in files(folder))])


@pytest.mark.parametrize("to", TO)
def test_again_there_is_nothing_to_do(to: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_dataset(tmp_path / "ghi", 2)
    assert export(tmp_path / "ghi", to=to, out=tmp_path / "x") == 0
    assert "7 rows of 2 shards" in capsys.readouterr().err
    before = times(tmp_path / "x")
    assert export(tmp_path / "ghi", to=to, out=tmp_path / "x") == 0
    assert "nothing to do" in capsys.readouterr().err
    assert times(tmp_path / "x") == before


@pytest.mark.parametrize("to", TO)
def test_an_interrupted_export_goes_on_and_ends_as_one_made_at_once(to: str, tmp_path: Path) -> None:
    write_dataset(tmp_path / "ghi", 3)
    assert export(tmp_path / "ghi", to=to, out=tmp_path / "whole") == 0
    assert export(tmp_path / "ghi", to=to, out=tmp_path / "cut") == 0
    notes = tmp_path / "cut" / ".export"
    (notes / "done/00000001.json").unlink()  # what a kill leaves: files without their marker, and half a file
    (notes / "complete.json").unlink()
    victim = max((p for p in (tmp_path / "cut").rglob("*00000002*") if p.is_file()), key=lambda p: p.stat().st_size)
    victim.write_bytes(victim.read_bytes()[:-1])
    first = {path: when for path, when in times(tmp_path / "cut").items() if "00000000" in path}
    assert export(tmp_path / "ghi", to=to, out=tmp_path / "cut") == 0
    assert files(tmp_path / "cut") == files(tmp_path / "whole")
    assert first.items() <= times(tmp_path / "cut").items()


@pytest.mark.parametrize("to", TO)
def test_a_grown_dataset_is_exported_on(to: str, tmp_path: Path) -> None:
    write_dataset(tmp_path / "small", 1, n=8)
    write_dataset(tmp_path / "ghi", 2)
    assert export(tmp_path / "small", to=to, out=tmp_path / "x") == 0
    few = len(files(tmp_path / "x"))
    write_dataset(tmp_path / "small", 2)
    assert export(tmp_path / "small", to=to, out=tmp_path / "x") == 0
    assert export(tmp_path / "ghi", to=to, out=tmp_path / "straight") == 0
    assert files(tmp_path / "x") == files(tmp_path / "straight")
    assert len(files(tmp_path / "x")) >= few


@pytest.mark.parametrize("to", TO)
def test_what_was_taken_down_goes_from_an_earlier_export(to: str, tmp_path: Path) -> None:
    keys = write_dataset(tmp_path / "ghi", 2)
    assert export(tmp_path / "ghi", to=to, out=tmp_path / "x") == 0
    if to != "hf" and to != "recipe":  # where Parquet does not compress it
        assert keys[1].encode() in text(tmp_path / "x")
    assert cli.main(["takedown", str(tmp_path / "ghi"), "--key", keys[1]]) == 0
    assert export(tmp_path / "ghi", to=to, out=tmp_path / "x") == 0
    assert export(tmp_path / "ghi", to=to, out=tmp_path / "new") == 0
    assert files(tmp_path / "x") == files(tmp_path / "new")
    if to != "recipe":  # which has to tell what may not be made again
        assert keys[1].encode() not in text(tmp_path / "x")


def test_a_dataset_that_was_taken_down_whole_leaves_nothing(tmp_path: Path) -> None:
    keys = write_dataset(tmp_path / "ghi", 1)
    assert export(tmp_path / "ghi", to="humansd-layout", out=tmp_path / "x") == 0
    assert cli.main(["takedown", str(tmp_path / "ghi"), *(f"--key={key}" for key in keys)]) == 0
    assert export(tmp_path / "ghi", to="humansd-layout", out=tmp_path / "x") == 0
    assert list(files(tmp_path / "x")) == ["mapping_file_training.json"]
    assert json.loads((tmp_path / "x/mapping_file_training.json").read_text()) == {}


def test_nothing_is_left_behind_where_a_refresh_failed(tmp_path: Path) -> None:
    keys = write_dataset(tmp_path / "ghi", 1)
    assert export(tmp_path / "ghi", to="humansd-layout", out=tmp_path / "x") == 0
    assert cli.main(["takedown", str(tmp_path / "ghi"), "--key", keys[1]]) == 0
    shard = tmp_path / "ghi/shards/00000000.parquet"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-9])
    assert export(tmp_path / "ghi", to="humansd-layout", out=tmp_path / "x") == 1
    shard.write_bytes(whole)
    assert export(tmp_path / "ghi", to="humansd-layout", out=tmp_path / "x") == 0
    assert keys[1].encode() not in text(tmp_path / "x")


def test_rows_on_the_list_do_not_go_out_before_they_are_removed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = write_dataset(tmp_path / "ghi", 1)
    assert export(tmp_path / "ghi", out=tmp_path / "x") == 0
    Takedowns(tuple(parse(keys=[keys[2]]))).write(Store(str(tmp_path / "ghi")), lease.new_run())  # killed right after
    capsys.readouterr()
    assert export(tmp_path / "ghi", out=tmp_path / "x") == 0
    assert "1 rows were taken down" in capsys.readouterr().err
    assert keys[2].encode() not in text(tmp_path / "x")
    assert keys[3].encode() in text(tmp_path / "x")


def test_a_damaged_shard_is_named_and_the_others_go_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_dataset(tmp_path / "ghi", 2)
    shard = tmp_path / "ghi/shards/00000000.parquet"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-9] + b"?" + whole[-8:])
    assert export(tmp_path / "ghi", out=tmp_path / "x") == 1
    assert "failed: shard 00000000: " in (told := capsys.readouterr().err)
    assert "does not match its done marker" in told
    assert list(files(tmp_path / "x")) == ["00000001.tar"]
    shard.write_bytes(whole)
    assert export(tmp_path / "ghi", out=tmp_path / "x") == 0
    assert list(files(tmp_path / "x")) == ["00000000.tar", "00000001.tar"]


def test_poses_of_added_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_dataset(tmp_path / "ghi", 1)
    add_columns(tmp_path / "ghi", Annotation("pipelines.annotate:Poses", "none", {"min_score": 1.01}))
    assert export(tmp_path / "ghi", to="humansd-layout", out=tmp_path / "x", more=("--poses", "none")) == 0
    assert export(tmp_path / "ghi", to="coco", out=tmp_path / "coco", more=("--poses", "none")) == 0
    assert json.loads((tmp_path / "coco/annotations.json").read_text())["annotations"] == []
    assert export(tmp_path / "ghi", to="humansd-layout", out=tmp_path / "x") == 2
    assert "holds an export of something else (poses:" in capsys.readouterr().err
    assert export(tmp_path / "ghi", out=tmp_path / "y", more=("--poses", "absent")) == 2
    assert "has no columns absent (there: none)" in capsys.readouterr().err


def renamed(out: Path, to: Path, prefix: str = "b-") -> list[str]:
    """Copy a dataset under other keys; return them."""
    store, other = Store(str(out)), Store(str(to))
    manifest = dataset.read_manifest(store)
    dataset.write_manifest(other, manifest, {}, "run")
    keys = []
    for index in shards.done_indices(store):
        samples = table_to_samples(shards.read_table(store, "shards", index))
        accepted = [replace(one, key=f"{prefix}{one.key}", image_path=f"b-{one.image_path}") for one in samples]
        shards.commit(other, manifest.task(index), ShardResult(accepted), manifest.identity_hash, "run")
        keys += [one.key for one in accepted]
    return keys


def test_several_datasets_are_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = write_dataset(tmp_path / "a", 1)
    more = renamed(tmp_path / "a", tmp_path / "b")
    assert export(tmp_path / "a", tmp_path / "b", to="humansd-layout", out=tmp_path / "x") == 0
    assert list(json.loads((tmp_path / "x/mapping_file_training.json").read_text())) == [*keys, *more]
    assert export(tmp_path / "a", tmp_path / "b", to="coco", out=tmp_path / "coco") == 0
    images = json.loads((tmp_path / "coco/annotations.json").read_text())["images"]
    assert [(image["id"], image["key"]) for image in images] == list(enumerate([*keys, *more], 1))
    assert export(tmp_path / "a", tmp_path / "b", to="recipe", out=tmp_path / "recipe") == 2
    assert "--to recipe takes one dataset" in capsys.readouterr().err
    write_dataset(tmp_path / "c", 2)
    assert export(tmp_path / "a", tmp_path / "c", out=tmp_path / "y") == 2
    assert "leave one of them out" in capsys.readouterr().err
    assert not (tmp_path / "y").exists()


def test_keys_do_not_lead_out_of_the_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_dataset(tmp_path / "a", 1)
    renamed(tmp_path / "a", tmp_path / "b", "../../")
    assert export(tmp_path / "b", to="humansd-layout", out=tmp_path / "x/y/z") == 1
    assert "cannot be the name of a file" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.rglob("*.png")) == []


def test_what_lies_there_already_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_dataset(tmp_path / "ghi", 1)
    assert export(tmp_path / "ghi", to="hf", out=tmp_path / "x") == 0
    before = files(tmp_path / "x")
    assert export(tmp_path / "ghi", to="webdataset", out=tmp_path / "x") == 2
    assert "take another --out" in capsys.readouterr().err
    assert files(tmp_path / "x") == before


@pytest.mark.parametrize("to", ["webdataset", "recipe"])
def test_to_and_from_an_object_store(to: str, s3: str, tmp_path: Path) -> None:
    write_dataset(tmp_path / "ghi", 2)
    write_dataset(f"{s3}/export-{to}/ghi", 2)
    assert export(f"{s3}/export-{to}/ghi", to=to, out=f"{s3}/export-{to}/x") == 0
    assert export(tmp_path / "ghi", to=to, out=tmp_path / "x") == 0
    there = Store(f"{s3}/export-{to}/x")
    assert {name: there.read(name) for name in there.names_below("") if ".export" not in name} == files(tmp_path / "x")
    assert export(f"{s3}/export-{to}/ghi", to=to, out=f"{s3}/export-{to}/x") == 0


def test_all_formats_are_tested() -> None:
    assert sorted(TO) == sorted(FORMATS)
