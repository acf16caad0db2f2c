"""Several datasets read as one."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.compute as pc
import pytest

from detectors.types import KEYPOINTS
from pipelines import dataset, open_dataset, record, shards
from pipelines.config import UserError
from pipelines.inspect.sheet import card_of, draw_sheet
from pipelines.store import Store
from pipelines.work import ShardResult
from tests.pipelines.small_dataset import sample, write_dataset
from tests.pipelines.test_dataset import MANIFEST, make


def test_several_outs_open_as_one_without_the_uncommitted(tmp_path: Path) -> None:
    one = make(tmp_path / "one")
    make(tmp_path / "two", dataclasses.replace(MANIFEST, n=0, source="other"))
    keys = write_dataset(tmp_path / "three", 2)
    outs = [str(tmp_path / name) for name in ("one", "two", "three")]
    opened = open_dataset(outs)
    rows = len(opened)
    assert rows == sum(done.accepted for done in shards.read_markers(one)) + len(keys)
    assert opened.table(["key"])["key"].to_pylist()[-len(keys) :] == keys
    assert [sample.key for sample in opened.samples()] == opened.table(["key"])["key"].to_pylist()
    assert opened.arrow().count_rows() == rows
    assert opened.arrow().to_table(columns=["key"], filter=pc.field("num_people") == 2).num_rows < rows
    one.remove(["done/00000000.json"])
    assert len(open_dataset(outs)) < rows
    assert open_dataset(outs[1]).table(["caption", "key"]).column_names == ["caption", "key"]


def test_a_key_in_two_outs_is_an_error_that_names_both(tmp_path: Path) -> None:
    make(tmp_path / "one")
    make(tmp_path / "two")
    with pytest.raises(UserError, match=r"one/shards/00000000\.parquet and .*two/shards/00000000\.parquet"):
        open_dataset([str(tmp_path / "one"), str(tmp_path / "two")])


def test_a_folder_without_a_dataset_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no dataset"):
        open_dataset(str(tmp_path))


def test_reading_loads_neither_torch_nor_ray(tmp_path: Path) -> None:
    write_dataset(tmp_path, 1)
    assert dataset.read_manifest(Store(str(tmp_path))).n == 4
    code = (
        "import sys; from pipelines import open_dataset\n"
        "assert 'pyarrow' not in sys.modules\n"
        f"assert len(open_dataset({str(tmp_path)!r}).table(['key'])) == 4\n"
        "assert not {'torch', 'ray', 'diffusers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.fixture(scope="module")
def outs(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two small datasets; in the second are a sample of nobody, one with a crowd, and one with a perceptual hash."""
    folder = tmp_path_factory.mktemp("outs")
    write_dataset(folder / "one", 3)
    manifest = dataclasses.replace(MANIFEST, n=3, shard_size=3)
    store = Store(str(folder / "two"))
    dataset.write_manifest(store, manifest, {}, "run")
    base = next(one for one in (sample("0" * 64, slot, 1) for slot in range(20)) if one.people)
    crowd = dataclasses.replace(base.people[0], iscrowd=1)
    rows = [
        dataclasses.replace(base, key="nobody", people=()),
        dataclasses.replace(base, key="crowd", people=(*base.people, crowd)),
        dataclasses.replace(base, key="hash", phash=2**64 - 3),
    ]
    shards.commit(store, manifest.task(0), ShardResult(accepted=rows), manifest.identity_hash, "run")
    return [str(folder / "one"), str(folder / "two")]


def copied(out: str, to: Path) -> str:
    return str(shutil.copytree(out, to / "out"))


def test_the_data_frame_has_every_column_but_the_image(outs: list[str]) -> None:
    opened = open_dataset(outs)
    assert list(opened.df.columns) == [name for name in record.SCHEMA.names if name != "image"]
    assert list(opened.df["key"]) == [sample.key for sample in opened.samples()]
    assert opened.df["caption"].iloc[0] == next(opened.samples()).caption
    assert opened.df["phash"].iloc[-1] == 2**64 - 3  # whole, although others have none
    assert opened.df is opened.df


def test_the_data_frame_comes_from_a_current_index_only(outs: list[str], tmp_path: Path) -> None:
    out = copied(outs[0], tmp_path)
    plain = open_dataset(out).df
    dataset.write_index(out)
    indexed = open_dataset(out)
    for file in (tmp_path / "out" / "shards").glob("*.parquet"):
        file.rename(file.with_suffix(".away"))  # an index that is current is enough
    pd.testing.assert_frame_equal(indexed.df, plain)
    for file in (tmp_path / "out" / "shards").glob("*.away"):
        file.rename(file.with_suffix(".parquet"))
    (tmp_path / "out" / "done" / "00000002.json").unlink()
    fewer = open_dataset(out)
    assert list(fewer.df["key"]) == [sample.key for sample in fewer.samples()]
    assert len(fewer.df) == len(plain) - 4
    dataset.write_index(out)  # of two shards, while a third is committed again
    write_dataset(out, 3)
    assert list(open_dataset(out).df["key"]) == list(plain["key"])
    (tmp_path / "out" / "index.parquet").write_bytes(b"not Parquet")
    assert len(open_dataset(out).df) == len(plain)


def test_people_are_one_row_each(outs: list[str]) -> None:
    opened = open_dataset(outs)
    people = opened.people()
    expected = [
        (sample.key, number, person) for sample in opened.samples() for number, person in enumerate(sample.people)
    ]
    assert len({number for _, number, _ in expected}) > 1
    assert "nobody" not in set(people["key"])
    assert people["iscrowd"].sum() == 1
    assert len(people) == len(expected)
    for row, (key, number, person) in zip(people.to_dict("records"), expected, strict=True):
        assert (row["key"], row["person"], row["score"]) == (key, number, np.float32(person.score))
        assert np.allclose([row["x"], row["y"], row["width"], row["height"]], person.bbox)
        keypoints = [[row[f"{name}_{part}"] for part in "xyc"] for name in KEYPOINTS]
        assert np.array_equal(np.array(keypoints, np.float32), person.keypoints)
        assert row["visible_keypoints"] == (person.keypoints[:, 2] >= 0.3).sum()
        assert row["mean_keypoint_score"] == pytest.approx(person.keypoints[:, 2].mean())
        assert row["min_keypoint_score"] == person.keypoints[:, 2].min()
        assert row["iscrowd"] == bool(person.iscrowd)
    assert set(people.columns) > {"area", "nose_x", "right_ankle_c"}


def test_nobody_and_nothing_are_empty_frames_of_the_same_columns(outs: list[str], tmp_path: Path) -> None:
    out = copied(outs[0], tmp_path)
    for marker in (tmp_path / "out" / "done").iterdir():
        marker.unlink()
    opened = open_dataset(out)
    assert list(opened.people().columns) == list(open_dataset(outs).people().columns)
    assert list(opened.df.columns) == list(open_dataset(outs).df.columns)
    assert len(opened.df) == len(opened.people()) == 0
    assert opened.sheet(20).size[1] > 0
    with pytest.raises(IndexError, match="no rows"):
        opened.show(0)


def test_a_row_is_shown_as_on_a_sheet(outs: list[str]) -> None:
    opened = open_dataset(outs)
    row = len(opened) - 2
    expected = draw_sheet([card_of(list(opened.samples())[row])], f"Row {row}", " + ".join(outs))
    assert np.array_equal(np.asarray(opened.show(row)), np.asarray(expected))
    with pytest.raises(IndexError, match=f"row {len(opened)}: there are rows 0 to {len(opened) - 1}"):
        opened.show(len(opened))
    with pytest.raises(IndexError):
        opened.show(-1)


def test_a_sheet_is_spread_evenly(outs: list[str]) -> None:
    opened = open_dataset(outs[0])
    rows = list(opened.samples())
    assert [one.key for one in opened.rows([9, 0, 4])] == [rows[number].key for number in (0, 4, 9)]
    cards = [card_of(rows[number]) for number in (0, 2, 5, 8)]
    expected = draw_sheet(cards, outs[0], "4 of 11 samples")
    assert np.array_equal(np.asarray(opened.sheet(4)), np.asarray(expected))
    assert opened.sheet(100).size == draw_sheet([card_of(row) for row in rows], "", "").size


def test_a_dataset_on_an_object_store_is_looked_at_the_same_way(outs: list[str], s3: str) -> None:
    there = f"{s3}/looked-at"
    write_dataset(there, 3)
    local, remote = open_dataset(outs[0]), open_dataset(there)
    pd.testing.assert_frame_equal(remote.df, local.df)
    dataset.write_index(there)
    pd.testing.assert_frame_equal(open_dataset(there).people(), local.people())
    assert remote.show(3).size == local.show(3).size
