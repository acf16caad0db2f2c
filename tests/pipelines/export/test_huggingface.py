"""Folders that `datasets` loads, and that diffusers' ControlNet training example takes as its --train_data_dir."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detectors.skeleton import draw_skeleton
from pipelines import cli, open_dataset
from tests.pipelines.small_dataset import write_dataset

datasets = pytest.importorskip("datasets")


def load(folder: Path, cache: Path) -> Any:
    return datasets.load_dataset(str(folder), cache_dir=str(cache))


def test_a_folder_that_datasets_loads(tmp_path: Path) -> None:
    keys = write_dataset(tmp_path / "ghi", 2)
    assert cli.main(["export", str(tmp_path / "ghi"), "--to", "hf", "--out", str(tmp_path / "hf")]) == 0
    train = load(tmp_path / "hf", tmp_path / "cache")["train"]
    assert train["key"] == keys
    assert train[0]["image"].size == (64, 64)
    assert np.array(train[0]["people"][0]["keypoints"]).size == 51


def test_conditioning_is_what_the_controlnet_example_reads(tmp_path: Path) -> None:
    keys = write_dataset(tmp_path / "ghi", 2)
    arguments = ["export", str(tmp_path / "ghi"), "--to", "hf", "--conditioning", "--out", str(tmp_path / "hf")]
    assert cli.main(arguments) == 0
    loaded = load(tmp_path / "hf", tmp_path / "cache")
    assert list(loaded) == ["train"]
    train = loaded["train"]
    assert train.column_names == ["image", "conditioning_image", "text", "key"]
    assert train["key"] == keys
    for example, row in zip(train, open_dataset(str(tmp_path / "ghi")).samples(), strict=True):
        assert example["text"] == row.caption
        assert example["image"].convert("RGB").size == (row.width, row.height)
        drawn = np.asarray(example["conditioning_image"].convert("RGB"))
        assert np.array_equal(drawn, draw_skeleton(row.people, row.height, row.width))
        assert drawn.any()


def test_conditioning_belongs_to_hf(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_dataset(tmp_path / "ghi", 1)
    arguments = ["export", str(tmp_path / "ghi"), "--to", "coco", "--conditioning", "--out", str(tmp_path / "x")]
    assert cli.main(arguments) == 2
    assert "--conditioning belongs to --to hf" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
