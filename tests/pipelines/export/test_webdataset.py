"""Tar shards, read by the webdataset library."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import webdataset

from pipelines import cli, open_dataset
from pipelines.images import decode_image
from tests.pipelines.small_dataset import write_dataset


def test_webdataset_reads_every_sample(tmp_path: Path) -> None:
    keys = write_dataset(tmp_path / "ghi", 2)
    out = tmp_path / "tars"
    assert cli.main(["export", str(tmp_path / "ghi"), "--to", "webdataset", "--out", str(out)]) == 0
    shards = sorted(map(str, out.glob("*.tar")))
    found = list(webdataset.WebDataset(shards, shardshuffle=False, empty_check=False).decode("rgb8"))
    assert [sample["__key__"] for sample in found] == [sample["json"]["key"] for sample in found] == keys
    for sample, row in zip(found, open_dataset(str(tmp_path / "ghi")).samples(), strict=True):
        assert sample["txt"] == row.caption
        assert np.array_equal(sample["png"], decode_image(row.image or b""))
        keypoints = [person["keypoints"] for person in sample["json"]["people"]]
        assert np.array_equal(
            np.array(keypoints, np.float32).reshape(-1, 17, 3), [person.keypoints for person in row.people]
        )
        assert sample["json"]["prompt"]["scene"] == (row.prompt or {})["scene"]


def test_equal_rows_are_equal_bytes_wherever_and_whenever(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_dataset(tmp_path / name, 1)
        assert (
            cli.main(["export", str(tmp_path / name), "--to", "webdataset", "--out", str(tmp_path / f"{name}-t")]) == 0
        )
    first, second = (tmp_path / f"{name}-t/00000000.tar" for name in ("a", "b"))
    assert first.read_bytes() == second.read_bytes()
    with tarfile.open(first) as tar:
        assert {(one.mtime, one.uid, one.uname, one.mode) for one in tar.getmembers()} == {(0, 0, "", 0o644)}
